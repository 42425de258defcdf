"""twin_pair: the same script on two buses, and where they differ.

Theory. Both play each step; after it everybody's messages on one bus must be those on the other. In the end
the state of both Cores is compared, with everybody still there, and statistics without them. After a
difference both buses are started anew, so that a script which is played again finds what it found first.
Steps are left out of a script that shows a difference as long as it shows one.

Not here: what a step does (twin_stage).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from daemons import OPEN, Daemon
from dbus_client import PATIENCE, parse
from twin_client import Idleness, Silence
from twin_script import Script, shortened, text_of
from twin_stage import Place, Stage

_RENEWED = 100
"""Scripts after which both buses are started anew: numbers of new ones are short."""


class Difference(AssertionError):
    """Two buses did not do the same."""


class Pair:
    """Two buses, started when they are needed; ``contents``: what stands in their configurations."""

    def __init__(
        self, folder: Path, bodies: tuple[str, str], contents: tuple[str, str] = ("", ""), policy: str = OPEN
    ) -> None:
        self._folder = folder
        self._bodies = bodies
        self._contents = contents
        self._policy = policy
        self._n_started = 0
        self._stack = ExitStack()
        self._ends: list[Callable[[], str]] = []
        self._stages: list[Stage] = []
        self._n_scripts = 0
        self._has_stormed = False
        """From here on the order among senders is a matter of time."""
        self._told: tuple[Script, Difference] | None = None
        """What came of the script before, if they differed."""

    def compare(self, script: Script) -> None:
        """Play it; Difference, with the shortest script found that shows one."""
        if self._told is not None and self._told[0] == script:
            raise self._told[1]
        try:
            self.play(script)
        except Difference as error:
            self._told = script, self._shortest(script, error)
            raise self._told[1] from None

    def play(self, script: Script) -> None:
        """Play it; Difference, with what it shows."""
        if self._n_scripts >= _RENEWED:
            self.close()
        try:
            self._play(script)
        except BaseException:
            self._abandon()
            raise

    def _shortest(self, script: Script, error: Difference) -> Difference:
        def differs(shorter: Script) -> bool:
            nonlocal error
            try:
                self.play(shorter)
            except Difference as found:
                error = found
                return True
            return False

        shortened(script, differs)
        return error

    def close(self) -> None:
        """Stop both; neither may have complained of itself."""
        ends = self._ends
        with self._stack:
            self._leave()
            for end in ends:
                assert "Traceback" not in (said := end()), said

    def new_folder(self) -> Path:
        """For one more bus; all names are of the same length."""
        self._n_started += 1
        folder = self._folder / f"{self._n_started:04}"
        folder.mkdir(parents=True)
        return folder

    def start(self, body: str, content: str) -> tuple[Place, Callable[[], str]]:
        """A bus, and what ends it and tells what it said."""
        folder = self.new_folder()
        daemon = Daemon("bus1-bridge", folder)
        self._stack.enter_context(daemon.cleanup)
        log = daemon.cleanup.enter_context((folder / "log").open("w+b"))
        environment = {"BUS1_ACCEL": body, "XDG_DATA_HOME": str(folder)}
        configuration = daemon.configure(content, policy=self._policy)
        process, _ = daemon.serve(f"--config-file={configuration}", environment=environment, stderr=log)

        def end() -> str:
            process.terminate()
            status = process.wait(PATIENCE)
            said = (folder / "log").read_text()
            assert status == 0, said
            return said

        return Place(body, folder, Idleness(f"/proc/{process.pid}")), end

    def _leave(self) -> None:
        for stage in self._stages:
            stage.leave()
        self._stages, self._ends, self._n_scripts = [], [], 0

    def _abandon(self) -> None:
        self._leave()
        self._stack.close()

    def _start(self) -> None:
        files = [os.memfd_create(f"file {n}") for n in range(3)]
        for fd in files:
            self._stack.callback(os.close, fd)
        for body, content in zip(self._bodies, self._contents, strict=True):
            place, end = self.start(body, content)
            self._stack.callback(place.idleness.close)
            self._ends.append(end)
            self._stages.append(Stage(place, files))

    def _play(self, script: Script) -> None:
        if not self._stages:
            self._start()
        self._n_scripts += 1
        for stage in self._stages:
            stage.begin()
        self._has_stormed = False
        for n, step in enumerate(script):
            self._has_stormed |= step.word == "storm"
            with _told(script, f"at step {n}, {step!r}"):
                self._at_once(lambda stage, step=step: stage.play(step))
        with _told(script, "in the state of Core"):
            one, other = (stage.snapshot() for stage in self._stages)
            _equal(one, other)
        with _told(script, "at the end"):
            self._at_once(Stage.end)

    def _at_once(self, action: Any) -> None:
        for stage in self._stages:
            try:
                action(stage)
            except Silence as error:
                raise Difference(f"{stage.body}: {error}") from error
        one, other = (stage.everything() for stage in self._stages)
        if self._has_stormed:
            one, other = _by_sender(one), _by_sender(other)
        for name in one | other:
            if one.get(name) == other.get(name):
                continue
            for i, (left, right) in enumerate(_differing(one.get(name, []), other.get(name, []))):
                if left != right:
                    first, second = (stage.body for stage in self._stages)
                    said = f"message {i} of {name!r}:\n{first}: {left}\n{second}: {right}"
                    raise Difference(f"{said}\n{_details(left, right)}")


@contextmanager
def _told(script: Script, where: str) -> Iterator[None]:
    try:
        yield
    except Difference as error:
        raise Difference(f"{where}: {error}\n\n{text_of(script)}") from error


def _differing(one: list[Any], other: list[Any]) -> Iterator[tuple[Any, Any]]:
    if all(got and getattr(got[-1], "is_expulsion", False) for got in (one, other)):
        # how much a client that is thrown out has been told before is a matter of time
        return zip(one[:-1], other[:-1], strict=False)
    return zip_longest(one, other)


def _details(left: Any, right: Any) -> str:
    """Where two long answers differ."""
    try:
        _equal(parse(left.raw).args, parse(right.raw).args)
    except Difference as error:
        return str(error)
    except Exception:
        pass  # not everything is a message with arguments
    return ""


def _by_sender(everything: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: sorted(got, key=_place) for name, got in everything.items()}


def _place(got: Any) -> str:
    """What others say has no order; the end is the end."""
    return "~" if getattr(got, "raw", None) == b"" else str(getattr(got, "sender", ""))


def _equal(one: Any, other: Any, at: str = "") -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one | other:
            _equal(one.get(key), other.get(key), f"{at}/{key}")
    elif isinstance(one, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        for n, pair in enumerate(zip(one, other, strict=True)):
            _equal(*pair, f"{at}/{n}")
    elif one != other:
        raise Difference(f"{at}: {one} and {other}")
