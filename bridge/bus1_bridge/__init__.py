"""bridge: a D-Bus message bus whose names lead to bus1 nodes."""
