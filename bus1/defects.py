"""defects: what is told of a failure that nobody has foreseen.

Theory. What writes a traceback is dear to load, and rarely needed, so it is loaded when a defect shows. That
fails in its turn where descriptors or memory have run out; then the exception alone is told.

Not here: whom a defect costs what (broker, switch).
"""

from __future__ import annotations

import sys


def account() -> str:
    """What is being handled, with its traceback where that can be had."""
    error = sys.exc_info()[1]
    try:
        import traceback

        return "".join(traceback.format_exception(error))
    except Exception:
        return f"{error!r}\n"
