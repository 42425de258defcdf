"""table: all scenarios, their figures, and what is wanted of each beside the reference bus.

Not here: how a figure is measured (scenarios), on what (places).
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import places, scenarios
from .figures import Figure, Goal
from .places import Place
from .scenarios import MIB, Found
from .system import SERVICE

OURS = ("bus1-bridge", "bus1-bridge-python")
BUSES = ("dbus-daemon", "dbus-broker", *OURS)
"""All but the floor, which passes bytes on and does nothing else."""
FLAT = 0.9
"""A rate among many may fall to that share of the rate among few."""
CROWDED = 1.15
"""So many times as long something may take on a full bus."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A few rows: ``measure(place, seconds)`` gives one value per figure."""

    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[Place, float], Found]
    furnish: Callable[[Place], None] = places.running
    """What the place is; scenarios with the same one share it."""
    buses: tuple[str, ...] | None = None
    """Those that it is something for; all, unless said."""
    rounds: int | None = None
    """No more than that."""
    library: str = ""
    """The shared library that it cannot do without."""
    module: str = ""
    """The Python module that it cannot do without."""

    def can_be_measured(self) -> bool:
        """Whether what it cannot do without is installed."""
        if self.module:
            return importlib.util.find_spec(self.module) is not None
        try:
            return not self.library or bool(ctypes.CDLL(self.library))
        except OSError:
            return False


def _rate(name: str, title: str, least: float, role: str, **options: int) -> Scenario:
    figures = (Figure("rate", title, "k/s", Goal(least=least)),)
    return Scenario(name, figures, partial(scenarios.rate, role, options))


def _bandwidth(name: str, size: int, title: str, least: float) -> Scenario:
    figures = (Figure("rate", f"one-way {title}", "MB/s", Goal(least=least)),)
    return Scenario(name, figures, partial(scenarios.bandwidth, size))


def _asked(name: str, title: str) -> Scenario:
    figures = (
        Figure("p50", f"{title}, p50", "µs"), Figure("p99", "the same, p99", "µs"),
        Figure("cpu", "bus CPU per message in that", "µs"),
    )
    return Scenario(f"driver-{name}", figures, partial(scenarios.call, "driver", name=name), buses=BUSES)


def _rules(key: str, furnish: Callable[[Place], None]) -> Scenario:
    title = f"signals beside {{}} rules that can't match, by {key}"
    flat = Goal(least=FLAT, of="few")
    figures = (
        Figure("few", title.format("10"), "k/s"), Figure("more", title.format("10,000"), "k/s", flat),
        Figure("many", title.format("100,000"), "k/s", flat),
    )
    return Scenario(f"rules-{key.lower()}", figures, scenarios.among_rules, furnish, BUSES, 5)


def _crowded(name: str, title: str, role: str, figure: str, **options: int) -> Scenario:
    figures = (Figure("growth", f"{title}, in a crowd: so many times as long", "×",
                      Goal(most=CROWDED, of="itself")),)
    measure = partial(scenarios.in_a_crowd, role, figure, options)
    return Scenario(f"crowded-{name}", figures, measure, places.alone_and_in_a_crowd, OURS, 5)


SINGLE = (
    Scenario("call", (
        Figure("p50", "call + reply, p50", "µs", Goal(most=0.8)), Figure("p99", "the same, p99", "µs"),
        Figure("cpu", "bus CPU per routed message in that", "µs", Goal(most=0.65)),
    ), partial(scenarios.call, "call")),
    Scenario("getid", (
        Figure("p50", "GetId, p50", "µs", Goal(most=0.65)), Figure("p99", "the same, p99", "µs"),
        Figure("cpu", "bus CPU per message in that", "µs"),
    ), partial(scenarios.call, "driver")),
    _asked("rules", "AddMatch and RemoveMatch"), _asked("owner", "GetNameOwner"),
    _asked("credentials", "GetConnectionCredentials"), _asked("names", "RequestName and ReleaseName"),
)
STREAMS = (
    _rate("pipelined", "pipelined calls, 64 outstanding, each written by itself", 3, "pipelined", each=True),
    _rate("batched", "the same, clients batch", 8, "pipelined"),
    _rate("pairs", "16 pairs at once", 2, "pairs", count=16, window=1),
    _rate("one-way", "one-way 32 B, sender batches", 15, "one-way", size=32),
    _bandwidth("one-way-4k", 4096, "4 KiB", 3.5),
    _bandwidth("one-way-64k", 65536, "64 KiB", 1.1),
    _bandwidth("one-way-1m", MIB, "1 MiB", 1.15),
    _rate("fan-out", "one signal to 100 subscribers, deliveries", 6, "signals", count=100),
    _rate("connect", "connect + Hello + close", 1, "connect"),
    _rate("descriptors", "calls that carry a descriptor", 2.5, "pipelined", each=True, descriptors=True),
)
AMONG = {key: places.among_rules(key) for key in ("path", "interface", "arg0", "argN")}
_SYSTEM = "with a system's policy: "
SYSTEM = (
    Scenario("system-call", (
        Figure("p50", f"{_SYSTEM}call + reply, p50", "µs"), Figure("p99", "the same, p99", "µs"),
        Figure("cpu", "bus CPU per routed message in that", "µs"),
    ), partial(scenarios.call, "call", name=SERVICE), places.systemwide, BUSES),
    Scenario("system-getid", (
        Figure("p50", f"{_SYSTEM}GetId, p50", "µs"), Figure("p99", "the same, p99", "µs"),
        Figure("cpu", "bus CPU per message in that", "µs"),
    ), partial(scenarios.call, "driver"), places.systemwide, BUSES),
    Scenario("system-batched", (
        Figure("rate", f"{_SYSTEM}64 calls outstanding, clients batch", "k/s"),
    ), partial(scenarios.rate, "pipelined", {"name": SERVICE}), places.systemwide, BUSES),
    Scenario("system-fan-out", (
        Figure("rate", f"{_SYSTEM}one signal to 100 subscribers, deliveries", "k/s"),
    ), partial(scenarios.rate, "signals", {"count": 100}), places.systemwide, BUSES),
)
RULES = (
    *(_rules(key, furnish) for key, furnish in AMONG.items()),
    Scenario("rule-memory", (Figure("memory", "memory per match rule", "B", Goal(most=300, of="itself")),),
             scenarios.rule_memory, AMONG["arg0"], BUSES, 1),
)
MEMORY = (
    Scenario("idle", (Figure("memory", "memory per idle connection", "KiB", Goal(most=0.6, of="itself")),),
             scenarios.idle, places.nothing, BUSES),
    Scenario("start", (
        Figure("time", "start to answered Hello", "ms", Goal(most=80, of="itself")),
        Figure("cpu", "CPU of the bus for that", "ms"),
    ), scenarios.start, places.nothing, BUSES),
    Scenario("flood", (
        Figure("p50", "a pair while a client floods a subscriber that never reads, p50", "µs"),
        Figure("p99", "the same, p99", "µs", Goal(most=1)),
        Figure("growth", "memory of the bus, growth in that, most of all rounds", "MiB",
               Goal(most=64, of="itself"), max),
        Figure("innocent", "one of the pair cut off, in any round", "0/1", Goal(most=0, of="itself"), max),
        Figure("flooder", "the flooder cut off, in any round", "0/1", Goal(most=0, of="itself"), max),
        Figure("reader", "the reader that doesn't read cut off, in any round", "0/1", None, max),
    ), scenarios.flood, places.nothing, BUSES, 5),
)
LIBRARIES = tuple(
    Scenario(f"{name}-call", (
        Figure("p50", f"call + reply with {name}, p50", "µs"), Figure("p99", "the same, p99", "µs"),
    ), partial(scenarios.library_call, name), buses=BUSES, library=file)
    for name, file in (("libdbus", "libdbus-1.so.3"), ("sd-bus", "libsystemd.so.0"))
)
PYTHON = (
    Scenario("python-call", (
        Figure("p50", "call + reply in Python, p50: dbus-fast; ours native, anyio face", "µs",
               Goal(most=0.59)),
        Figure("bus", "CPU of the bus for that", "µs"), Figure("client", "CPU of the client", "µs"),
        Figure("service", "CPU of the service", "µs"),
    ), partial(scenarios.python_call, "bus1_services"), buses=BUSES),
    Scenario("blocking-call", (
        Figure("p50", "call + reply in Python, p50: dbus-fast; ours native, synchronous face", "µs",
               Goal(most=0.33)),
        Figure("bus", "CPU of the bus for that", "µs"), Figure("client", "CPU of the client", "µs"),
        Figure("service", "CPU of the service", "µs"),
    ), partial(scenarios.python_call, "blocking"), buses=BUSES, module="bus1_services.blocking"),
    Scenario("dbus-fast-call", (
        Figure("p50", "the same with dbus-fast on every bus, p50", "µs"),
        Figure("bus", "CPU of the bus for that", "µs"), Figure("client", "CPU of the client", "µs"),
        Figure("service", "CPU of the service", "µs"),
    ), partial(scenarios.python_call, "dbus-fast"), buses=BUSES),
    Scenario("peer-call", (Figure("p50", "native call + reply of two synchronous Peers, p50", "µs"),),
             scenarios.peer_call, buses=OURS),
    Scenario("peer-signals", (Figure("rate", "native signals to 100 Peers, deliveries", "k/s"),),
             scenarios.peer_signals, buses=OURS),
    Scenario("python-one-way", (
        Figure("rate", "one-way 1 MiB, Python: dbus-fast; ours native", "MB/s", Goal(least=3)),
    ), scenarios.python_one_way, buses=BUSES),
    Scenario("in-process", (
        Figure("rate", "in-process send + recv, empty message", "k/s", Goal(least=500, of="itself")),
    ), scenarios.in_process, buses=OURS),
)
CROWD = (
    _crowded("call", "call + reply, p50", "call", "p50", window=1),
    _crowded("getid", "GetId, p50", "driver", "p50", window=1),
    _crowded("pipelined", "pipelined calls", "pipelined", "rate"),
    _crowded("one-way", "one-way 32 B", "one-way", "rate", size=32),
    _crowded("fan-out", "one signal to 100 subscribers", "signals", "rate", count=100),
    _crowded("connect", "connect + Hello + close", "connect", "rate"),
)
SCENARIOS = (*SINGLE, *STREAMS, *SYSTEM, *RULES, *MEMORY, *LIBRARIES, *PYTHON, *CROWD)
UNPINNED = tuple(scenario.name for scenario in (*SINGLE, *STREAMS, *LIBRARIES, *PYTHON))
"""Those that are measured a second time, with all CPUs."""
