"""Memory of an Ascend device: buffers of a model's inputs and outputs, and weights that several loads share."""

from __future__ import annotations

import os
import sys
import threading
from typing import List, Optional, Sequence

from .acl_process import Acl, AclError

#: Policy of acl.rt.malloc: huge pages first. ACL aligns the address to 64 bytes itself.
_HUGE_FIRST = 0


def allocate(acl: Acl, size_bytes: int) -> int:
    """Return the address of device memory; raises AclError."""
    return int(acl.take(acl.module.rt.malloc(size_bytes, _HUGE_FIRST), "acl.rt.malloc of %d bytes" % size_bytes))


class Dataset:
    """An aclmdlDataset: one buffer of device memory for each input, or each output, of a model.

    Attributes:
        handle: its address.
        addresses: those of the buffers' memory.
    """

    def __init__(self, acl: Acl, sizes: Sequence[int]) -> None:
        """Allocate buffers of these sizes in bytes; raises AclError, and then nothing is left."""
        self._acl = acl
        self.addresses: List[int] = []
        self._buffers: List[int] = []
        self.handle = acl.made(acl.module.mdl.create_dataset(), "acl.mdl.create_dataset")
        try:
            for size_bytes in sizes:
                self._add(size_bytes)
        except BaseException:
            self.free()
            raise

    def _add(self, size_bytes: int) -> None:
        acl = self._acl
        address = allocate(acl, size_bytes)
        self.addresses.append(address)
        buffer = acl.made(acl.module.create_data_buffer(address, size_bytes), "acl.create_data_buffer")
        self._buffers.append(buffer)
        acl.take(acl.module.mdl.add_dataset_buffer(self.handle, buffer), "acl.mdl.add_dataset_buffer")

    def free(self) -> None:
        """Release buffers, dataset and memory, in this order."""
        acl = self._acl
        for buffer in self._buffers:
            acl.released(acl.module.destroy_data_buffer(buffer), "acl.destroy_data_buffer")
        acl.released(acl.module.mdl.destroy_dataset(self.handle), "acl.mdl.destroy_dataset")
        for address in self.addresses:
            acl.released(acl.module.rt.free(address), "acl.rt.free")
        self._buffers, self.addresses = [], []


class SharedWeights:
    """Device memory for a model's weights, which the loads of several threads share.

    ACL documents it: weights are only read by an inference, and the same model may be loaded once by each thread with
    the same weight memory. Each load has working memory of its own. What must not be shared is one loaded model:
    threads that use it have to take turns.

    Attributes:
        work_bytes: the working memory that each load needs.
    """

    def __init__(self, acl: Acl, work_bytes: int, weight_bytes: int) -> None:
        """Allocate; raises AclError."""
        self._acl = acl
        self.work_bytes = work_bytes
        self._weight_bytes = weight_bytes
        self._address = allocate(acl, weight_bytes)
        self._users = 0
        self._lock = threading.Lock()

    @classmethod
    def of(cls, acl: Acl, path: str) -> Optional[SharedWeights]:
        """Return memory for a file's weights; None where it has none, or ACL does not tell their size."""
        work_bytes, weight_bytes, code = acl.module.mdl.query_size(path)
        if code:
            why = AclError("acl.mdl.query_size", code, acl.module.get_recent_err_msg())
            print("each instance loads weights of its own: %s" % why, file=sys.stderr)
            return None
        return cls(acl, work_bytes, weight_bytes) if work_bytes and weight_bytes else None

    def hold(self) -> None:
        """Keep the memory for one session more."""
        with self._lock:
            self._users += 1

    def load(self, path: str, work_address: int) -> int:
        """Load the model once more; return its id; raises AclError."""
        load = self._acl.module.mdl.load_from_file_with_mem
        result = load(path, work_address, self.work_bytes, self._address, self._weight_bytes)
        return int(self._acl.take(result, "acl.mdl.load_from_file_with_mem(%s)" % os.path.basename(path)))

    def release(self) -> None:
        """Keep it for one session less; the last frees it."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._acl.released(self._acl.module.rt.free(self._address), "acl.rt.free")
