"""codec: the D-Bus codec in use, the native one or the one in Python.

Theory. What every message goes through exists twice, with one behaviour: here in ``wire`` and ``walk``, which
are the reference, and in the native module. A native ``Header`` has the attributes of ``wire.Header``. Each
body of the codec works with its own headers alone, so whoever handles messages takes all from here.

Not here: the bus's own bodies (``wire.marshal``), which are few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus1 import acceleration

if TYPE_CHECKING or acceleration.native is None:
    from .walk import BodyCheck, arguments, check_body
    from .wire import build, frame_length, parse, stamp
else:
    BodyCheck = acceleration.native.BodyCheck
    arguments = acceleration.native.arguments
    check_body = acceleration.native.check_body
    build = acceleration.native.build_header
    frame_length = acceleration.native.frame_length
    parse = acceleration.native.parse_header
    stamp = acceleration.native.stamp_header

__all__ = ["BodyCheck", "arguments", "build", "check_body", "frame_length", "parse", "stamp"]
