"""migrate: native services out of the descriptions of D-Bus services."""
