"""pyACL (``import acl``) in this process: initialised once, devices opened once, finalised at the process's end.

The functions of pyACL return an error code, or a tuple that ends with one, or, where they make an object, its address
(0: it failed). :class:`Acl` turns errors into :class:`AclError`.
"""

from __future__ import annotations

import atexit
import sys
import threading
from typing import Any, Dict, Optional

from .acl_codes import MEANINGS, describe_code

#: ACL was initialised before, by the user's program or a library of it, which finalises it too.
_REPEATED_INIT = 100_002
#: In CANN's text about a model for another chip, whatever the code is.
_OTHER_CHIP = "model socVersion="
_MESSAGE_LINES = 2  # of CANN's own text, whose first lines tell the most
_MESSAGE_CHARS = 300


class AclError(RuntimeError):
    """CANN refused or failed a call; ``code`` is its number."""

    def __init__(self, what: str, code: int, message: Optional[str]) -> None:
        lines = [" ".join(line.split()) for line in (message or "").splitlines() if line.strip()]
        said = " ".join(lines[:_MESSAGE_LINES])[:_MESSAGE_CHARS]
        meaning = describe_code(code)
        if _OTHER_CHIP in (message or "") and MEANINGS[507008] not in meaning:
            meaning += "; " + MEANINGS[507008]
        super().__init__("%s failed: %s%s" % (what, meaning, " (CANN says: %s)" % said if said else ""))
        self.code = code


class Acl:
    """pyACL with checked results; one object for the process, used by all threads.

    Attributes:
        module: the module ``acl``.
    """

    def __init__(self, module: Any) -> None:
        """Initialise ACL; raises AclError."""
        self.module = module
        self._lock = threading.Lock()
        self._users: Dict[int, int] = {}  # device -> sessions that use it
        self._is_exiting = False
        code = module.init()
        self._is_own = code == 0
        if code not in (0, _REPEATED_INIT):
            self.check(code, "acl.init")
        if self._is_own:
            atexit.register(self._finalize)

    def check(self, code: int, what: str) -> None:
        """Raise AclError unless a call returned 0."""
        if code:
            raise AclError(what, code, self.module.get_recent_err_msg())

    def take(self, result: Any, what: str) -> Any:
        """Return the value of a call that returned (value, code); raises AclError."""
        value, code = result
        self.check(code, what)
        return value

    def made(self, handle: int, what: str) -> int:
        """Return the address of an object that was made; raises AclError where it is 0."""
        if not handle:
            raise AclError(what, 200_000, self.module.get_recent_err_msg())
        return handle

    def released(self, code: int, what: str) -> None:
        """Report a failed release in the log: the rest is to be released still."""
        if code:
            print("%s failed: %s" % (what, describe_code(code)), file=sys.stderr)

    # ---- devices

    def open_device(self, device_id: int) -> None:
        """Use a device from one session more; raises AclError."""
        with self._lock:
            if not self._users.get(device_id):
                self.check(self.module.rt.set_device(device_id), "acl.rt.set_device(%d)" % device_id)
            self._users[device_id] = self._users.get(device_id, 0) + 1

    def close_device(self, device_id: int) -> None:
        """Use it from one session less; the last gives it back. Before CANN 8, a reset takes it from all sessions."""
        with self._lock:
            self._users[device_id] -= 1
            if self._users[device_id]:
                return
            self.released(self.module.rt.reset_device(device_id), "acl.rt.reset_device(%d)" % device_id)
            if self._is_exiting:
                self._finalize()

    def _finalize(self) -> None:
        """Finalise ACL at the process's end, unless a session is still open: it does so when it is closed."""
        self._is_exiting = True
        if not any(self._users.values()):
            self.released(self.module.finalize(), "acl.finalize")


_opening = threading.Lock()
_opened: Optional[Acl] = None


def open_acl() -> Acl:
    """Return pyACL, initialised. It may be initialised once in a process, and not again after its end.

    Raises:
        ImportError: there is no pyACL.
        AclError: it cannot be initialised.
    """
    global _opened
    import acl

    with _opening:
        if _opened is None or _opened.module is not acl:
            _opened = Acl(acl)
        return _opened
