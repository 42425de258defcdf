"""__main__: ``python -m bus1`` is the command ``bus1``."""

import sys

from .cli import main

sys.exit(main())
