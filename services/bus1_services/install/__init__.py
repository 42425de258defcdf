"""install: what a machine needs to know of a finished service, and putting it there."""
