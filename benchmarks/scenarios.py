"""scenarios: what is measured, one function each.

Theory. A scenario gets a place with its buses and the seconds that it may measure, and returns one value
for each of its figures.

Not here: the figures and what is wanted of them (table), rounds and medians (run), what the load does
(``generator/src``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import ceil
from statistics import median
from time import perf_counter_ns as clock

from bus1.addresses import native_address

from .buses import Bus, Bus1Bridge
from .connection import Connection
from .load import measure
from .native_parties import PART
from .places import MANY, Place
from .worker import Worker

MIB = 1 << 20
IDLE = 1_000
"""Idle connections."""
FLOODED = 4_096
"""Bytes of a flooder's signal."""
FLOOD = 10
"""A flood lasts so many times as long as other measurements."""
Found = tuple[float, ...]
Options = Mapping[str, object]


def call(role: str, place: Place, seconds: float, **options: object) -> Found:
    """A call and its reply, one at a time: µs, and CPU of the bus for each message that it passes on."""
    found = measure(role, place.bus, seconds=seconds, window=1, **options)
    return found["p50"], found["p99"], found["bus_cpu"] / found["count"] / 2 * 1e6


def library_call(library: str, place: Place, seconds: float) -> Found:
    """A call and its reply, one at a time, by a client that uses a C library: µs."""
    found = measure("library-call", place.bus, seconds=seconds, library=library)
    return found["p50"], found["p99"]


def rate(role: str, options: Options, place: Place, seconds: float) -> Found:
    """Thousands a second."""
    return (measure(role, place.bus, seconds=seconds, **options)[place.rate] / 1e3,)


def bandwidth(size: int, place: Place, seconds: float) -> Found:
    """MB of bodies a second."""
    return (measure("one-way", place.bus, seconds=seconds, size=size)[place.rate] * size / 1e6,)


def among_rules(place: Place, seconds: float) -> Found:
    """Thousands of signals a second, beside few, more and many rules."""
    found = []
    for bus in place.buses:
        burst = place.notes.get(bus.address)
        if burst is None:  # How long one takes, so that nobody waits for minutes.
            probe = measure("signals", bus, seconds=0.001, burst=1, arguments=4)["rate"]
            burst = place.notes[bus.address] = min(50, max(1, ceil(probe / 100)))
        signals = measure("signals", bus, seconds=seconds, burst=ceil(burst), arguments=4)
        found.append(signals[place.rate] / 1e3)
    return tuple(found)


def rule_memory(place: Place, seconds: float) -> Found:
    """What many rules took, each."""
    return (place.notes[f"bytes, rules, by arg0, {MANY}"],)


def in_a_crowd(role: str, figure: str, options: Options, place: Place, seconds: float) -> Found:
    """How many times as long it takes on the bus that is full."""
    key = place.rate if figure == "rate" else figure
    alone, crowded = (measure(role, bus, seconds=seconds, **options)[key] for bus in place.buses)
    return (alone / crowded if figure == "rate" else crowded / alone,)


def idle(place: Place, seconds: float) -> Found:
    """KiB of the bus for a connection that does nothing; the first tenth doesn't count."""
    count = min(IDLE, place.largest)
    with place.fresh() as bus:
        held = [Connection.open(bus.address) for _ in range(count // 10)]
        before = bus.memory()
        held += [Connection.open(bus.address) for _ in range(count)]
        grown = bus.memory() - before
        bus.kill()
    for connection in held:
        connection.close()
    return (grown / count / 1024,)


def start(place: Place, seconds: float) -> Found:
    """Milliseconds from the spawn to the answer of a client's Hello, and of the CPU of the bus."""
    bus, begin = place.fresh(), clock()
    with bus:
        connection = Connection.open(bus.address)
        elapsed = clock() - begin
        spent = bus.cpu_time()
        connection.close()
    return elapsed / 1e6, spent / 1e6


def flood(place: Place, seconds: float) -> Found:
    """A pair beside a flood: µs, MiB, and who was cut off (1) or not (0)."""
    with place.fresh(stock=True) as bus:
        found = measure("beside-flood", bus, seconds=FLOOD * seconds, size=FLOODED, window=1)
    cut_off = (found[f"{who}_cut_off"] for who in ("innocent", "flooder", "reader"))
    return found["p50"], found["p99"], found["growth"] / MIB, *cut_off


def ask(bus: Bus, *words: str) -> Mapping[str, float | list[int]]:
    """What a Python process says when it is done."""
    with Worker(*words, environment=bus.environment) as worker:
        found: dict[str, float | list[int]] = json.loads(worker.line(60))
    return found


def python_call(library: str, place: Place, seconds: float) -> Found:
    """A call and its reply in Python, with ``library`` on our bus: µs, and CPU of bus, client and service."""
    bus, count = place.bus, ceil(3000 * seconds)
    if not isinstance(bus, Bus1Bridge):
        library = "dbus-fast"
    address = bus.address if library == "dbus-fast" else native_of(bus)
    with Worker("library", f"{library}.service", address, environment=bus.environment) as service:
        service.line()
        arguments = (f"{library}.client", address, str(count))
        with Worker("library", *arguments, environment=bus.environment) as client:
            client.line()
            spent = bus.cpu_time(), service.cpu_time()
            found = json.loads(client.line())
            cpu = (bus.cpu_time() - spent[0]) / count, found["cpu"], (service.cpu_time() - spent[1]) / count
    return median(found["times"]) / 1e3, *(each / 1e3 for each in cpu)


def python_one_way(place: Place, seconds: float) -> Found:
    """MB a second of messages of 1 MiB between two Python programs."""
    bus, parts = place.bus, ceil(20 * seconds)
    if isinstance(bus, Bus1Bridge):
        return (number_of(bus, "native", "one-way", native_of(bus), str(MIB), str(parts)) / 1e6,)
    with Worker("library", "dbus-fast.service", bus.address) as service:
        service.line()
        words = ("dbus-fast.source", bus.address, str(MIB), str(PART * parts))
        return (number_of(bus, "library", *words) / 1e6,)


def peer_call(place: Place, seconds: float) -> Found:
    """A call and its reply between two ``Peer`` objects, the synchronous face: µs."""
    found = ask(place.bus, "native", "call", native_of(place.bus), str(ceil(3000 * seconds)))
    times = found["times"]
    assert isinstance(times, list)
    return (median(times) / 1e3,)


def peer_signals(place: Place, seconds: float) -> Found:
    """Thousands of deliveries a second to 100 ``Peer`` objects."""
    count = str(ceil(30 * seconds))
    return (number_of(place.bus, "native", "signals", native_of(place.bus), "100", count) / 1e3,)


def in_process(place: Place, seconds: float) -> Found:
    """Thousands of empty messages a second, with the bus in the same process."""
    return (number_of(place.bus, "inprocess", str(seconds)) / 1e3,)


def native_of(bus: Bus) -> str:
    """The address of its native socket."""
    address = native_address(bus.address)
    assert address is not None
    return address


def number_of(bus: Bus, *words: str) -> float:
    """The rate that a Python process tells."""
    found = ask(bus, *words)["rate"]
    assert isinstance(found, float)
    return found
