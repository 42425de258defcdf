"""twin_stage: one bus on which a script is played, and all clients of it.

Theory. A step is complete before the next one begins: what was written has been handled by the bus, and
everybody has read what came of it. A bus that has nothing left to do sleeps in epoll_wait: that is waited
for, before anybody reads, and again when somebody has read, for then there may be more.

While somebody doesn't read, the bus may wait for that: who has acted then asks the bus for something, which
is answered when everything before is done.

So nothing here depends on time: what two buses of the same kind say is the same, byte by byte.

Not here: comparing (twin_pair), what the steps of native peers do (twin_natives).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbus_client import BUS
from twin_client import Idleness, TwinClient
from twin_messages import Author
from twin_natives import Natives
from twin_script import Term
from twin_strangers import Strangers

from bus1.verbs.inspect import fetch

_STATISTICS = f"{BUS}.Debug.Stats"
_KEPT = f"""<policy context="mandatory">
  <allow send_destination="{BUS}"/> <allow receive_sender="{BUS}"/>
</policy>"""
"""What no policy of a script forbids: to ask the bus."""
_PIECE = 700
"""Bytes of a storm that a client writes before the next has its turn."""


@dataclass(frozen=True)
class Place:
    """Where a bus is."""

    body: str
    """What it was started with (BUS1_ACCEL)."""
    folder: Path
    """Where it listens: at ``bus`` and ``bus1``; named in some texts."""
    idleness: Idleness


class Stage:
    """A bus that runs, and who is there."""

    def __init__(self, place: Place, files: Sequence[int]) -> None:
        self.body = place.body
        self._files = files
        self._path = str(place.folder / "bus")
        self._native_address = f"{self._path}1"
        self._file = place.folder / "bus.conf"
        self._configuration = ""
        """As it was before a script had its own rules; empty while none has."""
        self._ids = {str(place.folder).encode()}
        self._idleness = place.idleness
        self._clients: dict[str, TwinClient] = {}
        self._probe = self._new(fds=True)
        self._probe.call("Hello")
        answer = self._probe.call("GetId")
        assert answer is not None
        self._ids |= {self._probe.guid, str(answer.args[0]).encode()}
        self._probe.call("AddMatch", "s", f"type='signal',sender='{BUS}',member='NameOwnerChanged'")
        self._left: dict[str, list[Any]] = {}
        """What clients got whose place was taken by others."""
        self._natives = Natives(self._native_address, self.file, self.name_of)
        self._strangers = Strangers(self._path, self._idleness.wait, self._probe.blanked)
        self._steps: dict[str, Callable[..., None]] = {
            "connect": self._connect, "send": self._send, "rest": self._rest, "shut": self._shut,
            "close": self._close, "deafen": self._deafen, "listen": self._listen, "monitor": self._monitor,
            "stats": self._stats, "storm": self._storm, "policy": self._rule,
            "knock": self._strangers.knock,
        }

    def leave(self) -> None:
        """All clients close."""
        self._probe.close()
        for client in self._clients.values():
            client.close()
        self._natives.abandon()
        self._strangers.leave()

    # ---- a script --------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new script: nobody is there."""
        self._clients.clear()
        self._left.clear()
        self._natives.begin()
        self._strangers.got.clear()
        if self._configuration:
            self._configure(self._configuration)
            self._configuration = ""
        self._probe.got.clear()

    def play(self, step: Term) -> None:
        """Carry out one step, completely; one for which the client isn't there does nothing."""
        if (action := self._steps.get(step.word)) is None:
            self._natives.play(step)
        elif step.word in ("connect", "storm", "policy", "knock") or not self._is_over(step.values[0]):
            action(*step.values, **step.named)
        self._settle(str(step.values[0]) if step.values else "")

    def end(self) -> None:
        """Everybody leaves, natives first; then the bus tells what is left."""
        self._natives.end()
        self._strangers.leave()
        self._settle()
        for client in self._clients.values():
            self._drain(client)
            self._settle()
        self._ask_statistics(self._probe, [])

    def everything(self) -> dict[str, list[Any]]:
        """What each client has got since the script began; the probe has no name."""
        there = {name: client.got for name, client in self._clients.items()}
        others = {"": self._probe.got, "strangers": self._strangers.got}
        return {**there, **self._left, **self._natives.got, **others}

    def snapshot(self) -> dict[str, Any]:
        """The state of Core."""
        core: dict[str, Any] = fetch(self._native_address).data["core"]
        return core

    def name_of(self, client: str) -> str:
        """The unique name of a client of either kind, also of one that is gone; empty if it has none."""
        return self._clients[client].name if client in self._clients else self._natives.name_of(client)

    def file(self, n: int) -> int:
        """One of the files that travel."""
        return self._files[n % len(self._files)]

    def _new(self, *, fds: bool) -> TwinClient:
        return TwinClient(self._path, Author(self.name_of), self._idleness, self._ids, takes_fds=fds)

    def _is_over(self, name: str) -> bool:
        return name not in self._clients or self._clients[name].is_over

    def _settle(self, actor: str = "") -> None:
        self._idleness.wait()
        if self._somebody_is_deaf() and actor in self._clients and self._clients[actor].is_asking:
            self._clients[actor].ping()
        everybody = [self._probe, *self._clients.values()]
        readers = [client for client in everybody if not (client.is_deaf or client.is_over)]
        while sum(client.read() for client in readers):
            self._idleness.wait()
        self._natives.read()
        self._idleness.wait()

    def _somebody_is_deaf(self) -> bool:
        return any(client.is_deaf and not client.is_over for client in self._clients.values())

    # ---- steps -----------------------------------------------------------------------------------

    def _connect(self, name: str, *, fds: bool = True, hello: bool = True) -> None:
        if not self._is_over(name):
            return
        if name in self._clients:
            self._left[f"{name}, {len(self._left)}"] = self._clients.pop(name).got
        client = self._clients[name] = self._new(fds=fds)
        if hello:
            client.call("Hello")

    def _send(self, name: str, *terms: Term, cuts: Sequence[int] = (), keep: int = 0) -> None:
        """Messages in one go; ``keep`` bytes of the last stay behind until ``rest``."""
        client = self._clients[name]
        tears = any(each.word == "raw" or {"damage", "body_length"} & each.named.keys() for each in terms)
        # of who doesn't read nobody knows when the bus is through with what it says
        if client.is_deaf or (client.is_monitor and (tears or not terms)):
            return
        data, travelling = client.unsent, dict[int, list[int]]()
        client.unsent = b""
        client.is_torn |= tears
        for each in terms:
            written, fds = client.author.write(each)
            if fds:
                travelling[len(data)] = [self.file(n) for n in fds]
            data += written
        if keep and terms and not client.is_monitor and not self._somebody_is_deaf():
            at = len(data) - 1 - keep % (len(written) - 1)
            data, client.unsent = data[:at], data[at:]
        client.write(data, {cut % len(data) for cut in cuts if data}, travelling)
        if client.is_monitor:
            client.read_to_the_end()

    def _storm(self, *parts: Term) -> None:
        """Several clients at once, each without descriptors; they read meanwhile."""
        left: dict[TwinClient, memoryview] = {}
        for part in parts:
            client = self._clients.get(part.values[0])
            if client is not None and client.is_asking:
                left[client] = memoryview(b"".join(client.author.write(each)[0] for each in part.values[1:]))
        while any(left.values()):
            for client, data in left.items():
                n_left = len(client.write_some(data[:_PIECE]))
                left[client] = data[min(_PIECE, len(data)) - n_left :]
                client.read()
        self._settle()
        for client in self._clients.values():
            # who was first is a matter of time
            client.author.calls.sort(key=lambda call: str(call.sender))

    def _rule(self, *rules: str) -> None:
        """These rules for everybody, behind those that the configuration has."""
        self._configuration = self._configuration or self._file.read_text()
        policy = f'<policy context="default">{"".join(rules)}</policy>{_KEPT}</busconfig>'
        self._configure(self._configuration.replace("</busconfig>", policy))

    def _configure(self, text: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(text)
        new.replace(self._file)
        answer = self._probe.call("ReloadConfig")
        assert answer is not None and answer.error_name is None, answer

    def _rest(self, name: str) -> None:
        self._send(name)

    def _shut(self, name: str) -> None:
        self._drain(self._clients[name])

    def _drain(self, client: TwinClient) -> None:
        client.is_deaf = False
        client.end_input()
        client.read_to_the_end()

    def _close(self, name: str) -> None:
        self._clients[name].close()

    def _deafen(self, name: str) -> None:
        self._clients[name].is_deaf = True

    def _listen(self, name: str) -> None:
        self._clients[name].is_deaf = False

    def _monitor(self, name: str, *rules: str) -> None:
        client = self._clients[name]
        if client.is_asking:
            answer = client.call("BecomeMonitor", "asu", rules, 0, interface=f"{BUS}.Monitoring")
            client.is_monitor = answer is not None and answer.error_name is None

    def _stats(self, name: str) -> None:
        client = self._clients[name]
        if client.is_asking:
            self._ask_statistics(client, [each.name for each in self._clients.values() if not each.is_over])

    def _ask_statistics(self, client: TwinClient, names: Sequence[str]) -> None:
        client.call("GetStats", interface=_STATISTICS)
        client.call("GetAllMatchRules", interface=_STATISTICS)
        for name in filter(None, names):
            client.call("GetConnectionStats", "s", name, interface=_STATISTICS)
