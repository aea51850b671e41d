"""The choices of map's options; light to import, for the command line."""

from __future__ import annotations

#: What becomes of the pages of a document (see pages.py), the default first.
SEPARATE, RESTRUCTURED, JOINED = PAGES = ("separate", "restructured", "joined")

#: Instead of formats: each that a result offers.
ALL = "all"
#: What the results of PaddleX's pipelines can be saved as, each by its method ``save_to_...`` (see formats.py).
RESULT_FORMATS = (
    *("json", "img", "markdown", "html", "xlsx", "csv"),
    *("word", "latex", "video", "audio", "base64", ALL),
)
