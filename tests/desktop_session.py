"""desktop_session: a desktop on dbus-daemon, several times, and on bus1-bridge, and how the logs differ.

Theory. All sessions run side by side, so that whatever else the machine does hits them alike. Each lives for
the time asked for, in which its user works, and is then logged out. Of every line in a log only its kind is
compared: numbers, identifiers and the folder of the run are no part of it. Programs do not print the same in
every run; so there are several of the reference, and only a kind that none of them shows tells against us.

Not here: the session (desktop), and what is done in it (desktop_user).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from subprocess import TimeoutExpired

from desktop import Desktop, run_desktop
from desktop_user import User

REFERENCE, OURS = "dbus-daemon", "bus1-bridge"
_PAUSE = 5
"""Seconds between the rounds of a user's day."""

_IN_KINDS = (
    (re.compile(r"^(?:dbus-daemon|bus1-bridge)\[\d+\]: \[session uid="), "bus: [session uid="),
    (re.compile(r"\b[0-9a-f]{32}\b"), "GUID"),
    (re.compile(r"\b0x[0-9a-f]+|\d+"), "N"),
)


@dataclass(frozen=True)
class Life:
    """What became of one session."""

    kind: str
    log: str
    folder: str
    picture: bytes
    names: list[str]
    rounds: int
    seconds: float
    processor: float
    """Seconds that the bus used."""

    @property
    def kinds(self) -> Counter[str]:
        """How many lines there are of each kind."""
        return Counter(kinds_of(self.log, self.folder))


def kinds_of(log: str, folder: str) -> Iterator[str]:
    """The kind of each line that says something."""
    for line in log.splitlines():
        if kind := line.strip().replace(folder, "FOLDER"):
            for pattern, word in _IN_KINDS:
                kind = pattern.sub(word, kind)
            yield kind


def unseen(ours: Counter[str], references: Iterable[Counter[str]]) -> Counter[str]:
    """The kinds of lines that no reference has."""
    seen = set().union(*references)
    return Counter({kind: many for kind, many in ours.items() if kind not in seen})


def live(kind: str, seconds: float) -> Life:
    """One session from its start to the end of its bus."""
    with tempfile.TemporaryDirectory(prefix="bus1-desktop-") as name:
        folder = Path(name)
        start = time.monotonic()
        with run_desktop(kind, folder) as desktop:
            try:
                rounds = _work(desktop, start + seconds)
            except BaseException:
                print(f"{kind}:\n{desktop.log()}", file=sys.stderr)
                raise
            names = desktop.check_who_serves()
            picture = desktop.screen.png()
            User(desktop).log_out()
            lasted = time.monotonic() - start
            processor = _processor_time(desktop.bus.pid)
            status = desktop.end_the_bus()
            assert kind == REFERENCE or status == 0, (status, desktop.log())
        return Life(kind, desktop.log(), name, picture, names, rounds, lasted, processor)


def _work(desktop: Desktop, until: float) -> int:
    """What is done in the session; how many times over."""
    user = User(desktop)
    user.wait_for_the_desktop()
    desktop.check_who_serves()
    user.dress_the_desktop()
    user.colour_the_clock()
    user.end_services()
    for number in count(1):
        user.remember_something(f"round {number}")
        user.change_a_setting()
        user.open_a_folder("Papers")
        user.throw_away("letter.txt")
        user.answer_a_notification()
        if number == 1:
            user.find_services_started()
            user.kill_the_panel()
        if not _goes_on(desktop, until):
            break
        user.close_the_folder("Papers")
    user.be_notified(f"Everything here is told over {desktop.kind}.")
    return number


def _goes_on(desktop: Desktop, until: float) -> bool:
    """After a pause: there is time for another round. The session must not have ended by itself."""
    left = until - time.monotonic()
    try:
        status = desktop.session.wait(max(0.0, min(_PAUSE, left)))
    except TimeoutExpired:
        return left > _PAUSE
    raise AssertionError(f"the session has ended with status {status}\n{desktop.log()}")


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(ours: Life, references: list[Life]) -> tuple[str, bool]:
    """What to print, and whether ours showed nothing that was not seen on the reference."""
    lines = [f"{'bus':12} {'seconds':>8} {'rounds':>7} {'lines':>6} {'kinds':>6}  the bus's CPU, s"]
    lines += [
        f"{life.kind:12} {life.seconds:8.1f} {life.rounds:7} {life.kinds.total():6} {len(life.kinds):6}"
        f"  {life.processor:.2f}"
        for life in (*references, ours)
    ]
    lines += ["", f"names on {ours.kind} at the end: {', '.join(ours.names)}"]
    new = unseen(ours.kinds, [life.kinds for life in references])
    everywhere = set.intersection(*(set(life.kinds) for life in references))
    missing = Counter({kind: 0 for kind in everywhere if kind not in ours.kinds})
    for title, found in (("only here", new), (f"in every run on {REFERENCE}, not here", missing)):
        lines += ["", f"kinds of lines {title}: {len(found)}"]
        lines += [f"{many:5} × {kind}" for kind, many in sorted(found.items())]
    return "\n".join(lines), not new


def main() -> int:
    """Run the sessions and compare them; 1 if ours shows a kind of line that no other does."""
    parser = argparse.ArgumentParser(prog="desktop_session.py", description="A desktop on either bus.")
    parser.add_argument("--seconds", type=float, default=120, help="how long a session lasts (default: 120)")
    parser.add_argument("--runs", type=int, default=3, help=f"sessions on {REFERENCE} (default: 3)")
    parser.add_argument("--screenshot", type=Path, help=f"a file for the last screen of {OURS}")
    parser.add_argument("--logs", type=Path, help="a directory for the logs")
    options = parser.parse_args()
    kinds = [REFERENCE] * max(1, options.runs) + [OURS]
    with ThreadPoolExecutor(len(kinds)) as pool:
        *references, ours = pool.map(lambda kind: live(kind, options.seconds), kinds)
    if options.screenshot:
        options.screenshot.write_bytes(ours.picture)
    if options.logs:
        options.logs.mkdir(exist_ok=True)
        for number, life in enumerate((*references, ours), 1):
            (options.logs / f"{number}-{life.kind}.log").write_text(life.log)
    text, is_alike = report(ours, references)
    print(text)
    return 0 if is_alike else 1


if __name__ == "__main__":
    sys.exit(main())
