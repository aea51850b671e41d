"""The OM engine: .om models, which ATC makes for one kind of Ascend chip, through pyACL or ais_bench.

Both come with CANN or for it, and neither was at hand: this engine is written from their documentation and public code
(docs/om.md has the sources), and tested against a strict stand-in.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple, Union

import numpy as np

from .acl_session import AclSession
from .ais_bench_session import AisBenchSession
from .base import Arrays, Engine, trim_heap

Session = Union[AclSession, AisBenchSession]

#: The modules that can run OM models; the first that is installed is used.
ACL = "acl"
AIS_BENCH = "ais_bench"
#: The first bytes of an OM file: MODEL_FILE_MAGIC_NUM in the headers of CANN's graph engine.
_OM_START = b"IMOD"
_ONNX_START = b"\x08"
_MINDIR_WORD = b"MindSpore"


class OmEngine(Engine):
    """An .om model; instances are threads that share its weights, each with a load and a context of its own.

    CANN documents that one loaded model must not be executed by two threads at the same time, and that loads of one
    file by several threads may share the memory of the weights. ais_bench cannot share them.
    """

    name = "om"
    suffixes = (".om",)
    device_types = ("ascend",)
    options: Optional[Dict[str, Tuple[type, ...]]] = {}
    can_share = True
    needs_instances = True
    modules = (ACL,)
    install = "install CANN (nnrt or toolkit) and source its set_env.sh, which makes pyACL (import acl) known"

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        session_class = AisBenchSession if find_module() == AIS_BENCH else AclSession
        try:
            self._use(session_class(model, device[1], options.get("instances", 1)))
        except ImportError as error:
            raise ImportError(
                "neither acl (pyACL) nor ais_bench can be imported by %s (%s); %s, or name an interpreter that has it "
                "with worker_python" % (sys.executable, error, self.install)
            ) from error
        trim_heap()

    def _use(self, session: Session) -> None:
        self._session = session
        self.inputs, self.outputs = session.inputs, session.outputs

    @classmethod
    def describe_runtime(cls) -> str:
        """Import pyACL or, where that is not there, ais_bench."""
        name = find_module() or ACL
        importlib.import_module(name)
        return "acl (pyACL)" if name == ACL else name

    @classmethod
    def missing_module(cls) -> str:
        """Return "acl or ais_bench" where neither is there."""
        return "" if find_module() else "acl or ais_bench"

    @classmethod
    def why_wrong_kind(cls, head: bytes) -> str:
        """Recognize ONNX and MINDIR files; CANN's own message does not name the cause."""
        if head.startswith(_OM_START):
            return ""
        if _MINDIR_WORD in head:
            return "is not an OM file but, by its first bytes, a MINDIR file: run it with the mslite engine"
        if head.startswith(_ONNX_START):
            return (
                "is not an OM file but, by its first bytes, an ONNX file: convert it (ascend-parallel convert --to "
                "om), or run it with the onnxruntime engine"
            )
        return super().why_wrong_kind(head)

    @classmethod
    def why_not_precision(
        cls, precision: str, files: Dict[str, str], device_types: Iterable[str], options: Dict[str, Any]
    ) -> str:
        """Report that it was chosen when the file was made."""
        return (
            "ATC fixed it when it made the OM file: leave precision out, or convert the ONNX file again "
            "(ascend-parallel convert --to om --precision-mode MODE)"
        )

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Copy the inputs to the device, execute, and copy the outputs to their destinations."""
        return self._session.run(inputs, destinations)

    def share(self) -> Engine:
        """Return an engine for another thread, over the same weights where they are shared."""
        other = OmEngine.__new__(OmEngine)
        other._use(self._session.share())
        return other

    def close(self) -> None:
        """Free the device's memory."""
        self._session.close()


def find_module() -> str:
    """Return the module that runs OM models here: "acl", "ais_bench", or "" where there is neither."""
    return next((name for name in (ACL, AIS_BENCH) if importlib.util.find_spec(name) is not None), "")
