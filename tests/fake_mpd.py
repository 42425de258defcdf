"""fake_mpd: a music player daemon with one song, for programs that control one."""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import suppress
from pathlib import Path

ANSWERS = {
    "commands": "command: play\ncommand: pause\ncommand: status\n",
    "urlhandlers": "handler: http://\n",
    "currentsong": "file: tea.ogg\nTitle: Tea\nArtist: Kettle\nId: 1\nPos: 0\nduration: 60\n",
    "playlistinfo": "file: tea.ogg\nTitle: Tea\nArtist: Kettle\nId: 1\nPos: 0\nduration: 60\n",
}


class FakeMpd:
    """Listens on a unix socket in a thread; ``commands`` is what it was told to do."""

    def __init__(self, path: Path) -> None:
        self.state = "pause"
        self.commands: queue.Queue[str] = queue.Queue()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._sock: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            self._sock, _ = self._listener.accept()
            self._sock.sendall(b"OK MPD 0.23.5\n")
            with self._sock.makefile("r") as lines:
                for line in lines:
                    self._answer(self._sock, line.strip())

    def _answer(self, sock: socket.socket, line: str) -> None:
        command, *arguments = line.replace('"', "").split()
        if command == "idle":
            return
        changed = ""
        if command in {"play", "pause"}:
            self.state = "play" if command == "play" or arguments == ["0"] else "pause"
            self.commands.put(line.replace('"', ""))
        elif command == "noidle":
            changed = "changed: player\n"
        text = ANSWERS.get(command, "")
        if command == "status":
            text = f"state: {self.state}\nvolume: 50\nplaylist: 1\nsongid: 1\nsong: 0\nelapsed: 1\n"
        sock.sendall(f"{changed}{text}OK\n".encode())

    def close(self) -> None:
        for sock in (self._sock, self._listener):
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        self._thread.join()
