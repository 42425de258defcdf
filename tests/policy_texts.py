"""policy_texts: configurations out of texts, for tests that need no machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bus1_bridge.busconfig import BusConfig, ServiceDir, Sources
from bus1_bridge.configxml import read
from bus1_bridge.policy import Fields, Names, Policy

ROOT, BUS_UID, ALICE, BOB = 0, 500, 1000, 1001
NUMBERS = {
    ("user", "root"): ROOT, ("user", "alice"): ALICE, ("user", "bob"): BOB,
    ("group", "wheel"): 10, ("group", "audio"): 20,
    ("user", "daemon"): 1, ("user", "nobody"): 65534,
    ("group", "root"): 0, ("group", "daemon"): 1, ("group", "nogroup"): 65534,
}
CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4


class Texts(Sources):
    """Files and directories that are texts."""

    def __init__(self, files: Mapping[str, str | bytes]) -> None:
        self.files = files
        self.opened: list[str] = []

    def content(self, path: str) -> bytes:
        self.opened.append(path)
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory")
        text = self.files[path]
        return text if isinstance(text, bytes) else text.encode()

    def entries(self, path: str) -> list[str]:
        inside = [name for name in self.files if name.startswith(f"{path}/")]
        if not inside:
            raise FileNotFoundError(2, "No such file or directory")
        return [name.removeprefix(f"{path}/") for name in reversed(inside)]

    def number_of(self, kind: str, name: str) -> int | None:
        return NUMBERS.get((kind, name))

    def service_dirs(self, kind: str) -> Iterable[ServiceDir]:
        return (ServiceDir(f"/standard/{kind}"),)


def config_of(content: str, **files: str | bytes) -> BusConfig:
    """The configuration ``/etc/bus.conf`` with this content within ``<busconfig>``."""
    whole = f"<busconfig>{content}</busconfig>"
    return read("/etc/bus.conf", Texts({"/etc/bus.conf": whole, **files}))


def policy_of(*policies: str, console: Iterable[int] = ()) -> Policy:
    """The policy of these ``<policy>`` elements; a text without one stands in the default context."""
    content = "\n".join(
        text if text.startswith("<policy") else f'<policy context="default">{text}</policy>'
        for text in policies
    )
    return Policy(config_of(content).contexts, frozenset(console))


def call(interface: str | None = "com.example.I", member: str = "M", **more: object) -> Fields:
    """A method call."""
    return Fields(CALL, "/a", interface, member, **more)  # type: ignore[arg-type]


def named(*names: str, unique: str = ":1.7") -> Names:
    """Somebody who holds these names."""
    return Names(unique, names, lambda space: any(f"{name}.".startswith(f"{space}.") for name in names))
