"""``python -m bus1_services.dbusfast run PROGRAM``: runs a program of dbus-fast or dbus-next natively."""

import sys

from .running import main

main(sys.argv[1:])
