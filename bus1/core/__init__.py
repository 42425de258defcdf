"""core: the bus1 state machine, pure and synchronous; ``api`` is the waist, in prose first."""
