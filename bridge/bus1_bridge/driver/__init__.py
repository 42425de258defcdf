"""driver: the bus itself as an object, ``org.freedesktop.DBus``.

Theory. ``table.METHODS`` is the driver: one row per method with its interface, its signatures and the
function that answers. Dispatch (``dispatch``), argument checks and introspection read that table.

To add a method: write its function into the file of its noun (``names``, ``connections``, …; a new noun
gets a new file), and one row into ``table.METHODS``, at the reference's place. The function gets a
``Call`` and the arguments, and returns the values of the reply. It raises ``DriverError``, or an error of
the contract, before it has changed anything; ``errors`` knows the D-Bus name of each. What must happen
once the reply is queued is put into ``call.afterwards``. A method that answers later returns ``LATER``,
keeps ``call.ticket()``, and gives that to ``reply`` or ``refuse`` when it knows. Conditions that are the
same for many methods are marks of the row (``is_privileged``, ``on_every_path``), never code of the
function.

Invariants. 1. The signals that a call causes are queued before its reply, unless they are put off to
``afterwards``.
2. Before Hello no other call to the driver is answered.

Not here: who may send what (policy), the sending itself (``switch.delivery``).
"""

from __future__ import annotations

from .dispatch import Driver
from .errors import ERROR_NAMES, DriverError, error_name
from .method import LATER, Call, Method, Ticket, refuse, reply
from .table import METHODS

__all__ = [
    "ERROR_NAMES", "LATER", "METHODS", "Call", "Driver", "DriverError", "Method", "Ticket", "error_name",
    "refuse", "reply",
]
