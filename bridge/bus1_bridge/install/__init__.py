"""install: make the bridge the bus that the service manager starts, show what is there, and undo it."""
