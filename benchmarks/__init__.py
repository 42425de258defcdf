"""benchmarks: the same load on every bus, side by side (``python -m benchmarks``).

Theory. Each bus is a ``Bus`` (buses.py, broker.py, floor.py, native.py) with a kind of ``Clients``
(legacy.py for raw D-Bus sockets, native.py for bus1 peers). A scenario (scenarios.py) asks the clients
for a pair or an audience and returns figures; run.py interleaves rounds over the buses, so that a change
of the machine's mood hits all of them; report.py prints medians and ratios.

Not here: assertions about time. A figure is reported, never tested.
"""
