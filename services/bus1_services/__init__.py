"""services: calls, signals, interfaces and properties on top of bus1."""
