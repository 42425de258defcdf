"""unit: the text of the service unit, from the template that is packaged beside this file.

Theory. The templates are ordinary units (``session.service``, ``system.service``) in which ``@PROGRAM@``
stands for the program. A unit for a trial restores the old bus before it starts the new one, with nothing
but ``rm`` and ``ln``: whatever becomes of the new bus, the next start finds the old one.

Not here: where the text goes (installation).
"""

from __future__ import annotations

import re
from importlib.resources import files

_PLAIN = re.compile(r"/[-A-Za-z0-9_./+,:@=~]*")


def unit_text(kind: str, program: str, *, trial_of: tuple[str, str | None] | None = None) -> str:
    """The unit for a ``session`` or ``system`` bus; ValueError for a path that units can't have.

    ``trial_of`` is the link that chooses this bus, and where it led before (None: it wasn't there)."""
    for path in filter(None, (program, *(trial_of or ()))):
        if not _PLAIN.fullmatch(path):
            raise ValueError(f"{path!r} can't stand in a unit: an absolute path of plain characters can")
    text = files(__package__).joinpath(f"{kind}.service").read_text(encoding="utf-8")
    if trial_of is not None:
        text = text.replace("[Service]\n", f"[Service]\n{_undoing(*trial_of)}", 1)
    return text.replace("@PROGRAM@", program)


def _undoing(link: str, before: str | None) -> str:
    command = f"/bin/rm -f {link}" if before is None else f"/bin/ln -sfn {before} {link}"
    # "+": outside this unit's own protections; "-": its failure doesn't keep the bus from starting
    return f"# A trial: from the next start on, it is the old bus again.\nExecStartPre=-+{command}\n"
