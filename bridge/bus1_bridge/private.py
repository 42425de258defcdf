"""private: a bus in a thread of the calling process, for tests: it is there in milliseconds.

Theory. The Switch and its reactor run in any thread. Here is what they need of a process: two sockets in a
folder, one for D-Bus and one for native clients, and a control plane that starts nothing and reads no
configuration. Everybody of this user may do everything.

Invariants. 1. After ``close`` there is neither thread nor descriptor nor file of the bus. 2. A defect that
ended the bus is raised by ``close``.

Not here: how tests get one (``bus1_services.testing``).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import deque
from contextlib import suppress

from .daemon import new_switch
from .listening import Door, listen, listen_natively
from .switch.api import Answer, Closed, Failed, Listen, Punt, Short, Shutdown, Signalled, WatchSignals
from .switch.effects import Line, ListServices, LookUp, Refusal, Reload

LINES_MAX = 1000
"""The last so many are kept."""


class ThreadedBus:
    """A running bus with its sockets in ``folder``; OSError if they cannot be."""

    def __init__(self, folder: str) -> None:
        door = listen(f"unix:path={os.path.join(folder, 'bus')}")[0]
        self._doors: list[Door] = [door, listen_natively(door)]
        guid = os.urandom(16).hex()
        self.address = f"{door.address},guid={guid}"
        """For D-Bus clients."""
        self.native_address = self._doors[1].sockets[0].name
        """For native clients."""
        self.log: deque[str] = deque(maxlen=LINES_MAX)
        """What the bus complained of: refusals, and clients that it hung up on."""
        self._failure: BaseException | None = None
        stopping, self._stop = socket.socketpair()
        self._switch = new_switch(guid)
        self._switch.apply([
            *(Listen(door.sockets[0].sock.detach(), native=door.is_native) for door in self._doors),
            WatchSignals(stopping.detach()),
        ])
        self._thread = threading.Thread(target=self._run, name="private bus", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the bus and hang up on its clients; raises what had ended it before."""
        with suppress(BrokenPipeError):
            self._stop.send(bytes([signal.SIGTERM]))
        self._thread.join()
        self._stop.close()
        for door in self._doors:
            for listening in door.sockets:
                listening.remove_file()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            is_over = False
            while not is_over:
                for punt in self._switch.poll(None):
                    is_over |= self._decide(punt)
        except BaseException as error:
            self._failure = error
        finally:
            self._switch.apply([Shutdown()])

    def _decide(self, punt: Punt) -> bool:
        """Whether this is the end."""
        match punt:
            case Signalled():
                return True
            case LookUp(asker) | Reload(asker):
                self._switch.apply([Answer(asker, None)])
            case ListServices(asker):
                self._switch.apply([Answer(asker, ())])
            case Refusal() | Line() | Short():
                self.log.append(punt.text)
            case Closed():
                self.log.append(f"closed the connection of {punt.who}: {punt.reason}")
            case Failed():
                self.log.append(punt.traceback)
        return False
