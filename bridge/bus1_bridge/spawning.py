"""spawning: a program as a child of the bus, which never waits for it.

Theory. The child gets a session of its own, nothing on its standard input, the bus's standard output and
error, and nothing else: no descriptor, no ignored signal, no raised limit, no protection from the kernel's
memory killer. Until exec it shares one number with the bus, in a page of memory: the error with which exec
failed, or 0. Whoever finds the child ended looks there. So the bus needs no descriptor for that, and no turn
of its loop waits for a slow disk.

Not here: which program, what its end means (starting).
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress

_PLAIN_SIGNALS = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD,
    signal.SIGXFSZ, signal.SIGUSR1, signal.SIGUSR2,
)
_OOM_SCORE = "/proc/self/oom_score_adj"
_JOURNAL = "/run/systemd/journal/stdout"
_JOURNAL_HEADER = "{}\n\n6\n0\n0\n0\n0\n"
"""Who writes, no unit, at which priority, no prefixes, and no copies elsewhere."""
_STANDARD_FDS = 3
_EXEC_FAILED = 127


class Child:
    """A program that was started."""

    __slots__ = ("_page", "pid")

    def __init__(self, pid: int, page: mmap.mmap) -> None:
        self.pid = pid
        self._page = page

    def reap(self) -> int | None:
        """The wait status if it has ended; None while it runs."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            # somebody else has waited for it: nothing is known but that it is gone
            return 0
        return status if pid else None

    @property
    def exec_error(self) -> int:
        """The errno with which the program could not be executed; 0 if it could."""
        return int.from_bytes(self._page[:4], "little")

    def kill(self) -> None:
        """End it, and what it has started in its session's first group."""
        for kill in (os.killpg, os.kill):
            with suppress(OSError):
                kill(self.pid, signal.SIGKILL)


def spawn(
    arguments: Sequence[str], environment: Mapping[str, str], files: tuple[int, int] | None = None,
    *, journal: str = "",
) -> Child:
    """Start a program; OSError if there is no process for it.

    ``files`` is RLIMIT_NOFILE as it was before the bus raised it. With ``journal`` its output goes to the
    journal under that name, if there is one."""
    page = mmap.mmap(-1, mmap.PAGESIZE)
    # until the child is plain, a signal for it would be told to the bus
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
    except OSError:
        page.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return Child(pid, page)
    error = 0
    try:
        _become_plain(files)
        if journal:
            _write_to_journal(journal)
        os.execve(arguments[0], list(arguments), dict(environment))
    except OSError as failure:
        error = failure.errno or _EXEC_FAILED
    except BaseException:
        error = _EXEC_FAILED
    finally:
        page[:4] = error.to_bytes(4, "little")
        os._exit(_EXEC_FAILED)


def _become_plain(files: tuple[int, int] | None) -> None:
    """In the child: undo what the bus has done to its process."""
    signal.set_wakeup_fd(-1)
    for number in _PLAIN_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.closerange(_STANDARD_FDS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with suppress(OSError), open(_OOM_SCORE, "r+", encoding="ascii") as score:
        if int(score.read()) < 0:
            score.seek(0)
            score.write("0")
    if files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)


def _write_to_journal(name: str) -> None:
    """In the child: standard output and error become a stream of the journal."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as stream:
        stream.connect(_JOURNAL)
        stream.sendall(_JOURNAL_HEADER.format(name).encode())
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
