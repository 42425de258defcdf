"""compare: what two services say to the same questions, and where they differ."""
