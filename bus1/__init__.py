"""bus1: a capability message bus for Linux, in user space."""

TYPE_CHECKING = False  # typing is dear to import, and type checkers know this name

__version__ = "0.1.0"

if TYPE_CHECKING:
    __accelerated__: bool
    """Whether the native body is in use; ``bus1 doctor`` says why not."""
else:

    def __getattr__(name: str) -> bool:
        # found out when somebody asks: to import bus1 costs nothing
        if name == "__accelerated__":
            from .acceleration import native

            return native is not None
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
