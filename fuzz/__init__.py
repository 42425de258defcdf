"""fuzz: coverage-guided fuzzing of what reads the bytes of others. Run with ``python -m fuzz``."""
