"""CANN's error codes, as users meet them, and what they usually mean.

Source of the numbers: CANN's headers ``acl_base.h``, ``ge_error_codes.h`` and ``rt_error_codes.h``.
"""

from __future__ import annotations

_DAMAGED = "the model file is damaged or cut off, or it was made by a newer CANN than the installed one"
_NO_MEMORY = (
    "the device's memory is used up; see npu-smi info for other processes, or use fewer instances or a smaller batch"
)
_DRIVER = "the driver failed; see npu-smi info and dmesg"
_PROGRAM = "see CANN's own log in ~/ascend/log for the operator"

MEANINGS = {
    100000: "an argument is invalid",
    100001: "ACL was not initialised",
    100002: "ACL was initialised twice in one process",
    100003: "a file is missing or cannot be read",
    100012: _DAMAGED,
    100013: _DAMAGED,
    100014: _DAMAGED,
    100015: _DAMAGED,
    107000: "an argument is invalid",
    107001: "there is no device of this number; is ASCEND_RT_VISIBLE_DEVICES right?",
    107002: "no context is current in this thread",
    107004: "the model was loaded in another context",
    145000: "an argument is invalid",
    145002: "the model file is missing or cannot be read",
    145006: _DAMAGED,
    145012: "the memory of an input is smaller than the model's input",
    145013: "this batch size is none that the model was converted for (--dynamic-batch-size)",
    200000: "memory could not be allocated",
    200002: "there is no such device",
    207001: _NO_MEMORY,
    207004: "the device is not available; is ASCEND_RT_VISIBLE_DEVICES right (ascending ids, commas, no spaces)?",
    207006: "this user may not use the device; is it in the group of /dev/davinci_manager (HwHiAiUser)?",
    207018: _NO_MEMORY,
    245000: _NO_MEMORY,
    500001: "an operator failed",
    500002: "the graph engine failed; for a model that is loaded, it is often one for another chip or of a newer CANN",
    500003: "the runtime failed",
    500004: _DRIVER,
    507008: "the model was converted for another chip; convert it again with this one's --soc-version",
    507010: "the device does not answer any more",
    507011: "the model failed while it ran; " + _PROGRAM,
    507014: "an operator did not end in time on the AI cores; " + _PROGRAM,
    507015: "an operator failed on the AI cores, often because of values that it cannot take; " + _PROGRAM,
    507017: "an operator did not end in time on the AI CPU; " + _PROGRAM,
    507018: "an operator failed on the AI CPU; " + _PROGRAM,
    507033: "the device is occupied or could not be opened; is another process using it (npu-smi info)?",
    507899: _DRIVER,
    507901: "the connection to the device was lost; see npu-smi info and dmesg",
    545001: _DAMAGED,
}
#: First digit of a code -> what it means where the code is not in the table. Source: the rules of aclError.
_CLASSES = {
    1: "the environment or an argument is wrong",
    2: "a resource is short, or does not fit this hardware",
    3: "an operation could not be done now, because of a full or empty queue or the like",
    5: "an internal error of the software or the device; see CANN's own log in ~/ascend/log",
}
_CODE_STEP = 100_000
#: Codes after which a device's context computes nothing more; only a new process helps. An assumption: the documents
#: say "device execution failure" of the whole class.
_FIRST_FATAL, _LAST_FATAL = 507_010, 507_999


def describe_code(code: int) -> str:
    """Return a code with its meaning: "Ascend error 507033: the device is occupied ..."."""
    meaning = MEANINGS.get(code) or _CLASSES.get(code // _CODE_STEP, "it is not in CANN's lists")
    return "Ascend error %d: %s" % (code, meaning)


def is_fatal(code: int) -> bool:
    """Whether this process can compute nothing on the device after this error."""
    return _FIRST_FATAL <= code <= _LAST_FATAL
