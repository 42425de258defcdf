"""The native module, as Python sees it (``rust/src/py``)."""

__version__: str
PARTS: tuple[str, ...]
"""What it has, in the words of ``bus1 doctor``."""
