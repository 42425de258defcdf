"""bus1: a capability message bus for Linux, in user space."""

__version__ = "0.1.0"
