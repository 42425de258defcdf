"""The native module, as Python sees it (``rust/src/py``)."""

__version__: str
