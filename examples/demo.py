"""demo: the main job in one command.

Starts a private bus, a native service that knows nothing of D-Bus, a notification service of each
world, and lets stock D-Bus programs and native bus1 programs talk to them through the one daemon.
Prints who said what over which path; exits 0 only if every answer was the right one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer

HERE = Path(__file__).parent
BRIDGE = Path(sys.executable).with_name("bus1-bridge")
PATIENCE = 20.0


def say(who: str, what: str) -> None:
    """One line of the story."""
    print(f"{who:>26} | {what}", flush=True)


def next_line(process: subprocess.Popen[str], text: str) -> str:
    """The next line with ``text`` in it; "" if the process ends first, or has to be ended for silence."""
    assert process.stdout is not None
    watchdog = Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        return next((line for line in process.stdout if text in line), "")
    finally:
        watchdog.cancel()


@contextmanager
def running(name: str, *command: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """A process for the time of the block, which starts once it has printed a line with ``until``."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if until not in next_line(process, until):
            raise SystemExit(f"{name} ended before it was ready")
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)
        process.stdout.close()


def ask(who: str, path: str, *command: str, expect: str) -> None:
    """Run a program to its end, print its answer, and insist on a piece of it."""
    say(who, f"{path}: {' '.join(command)}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    answer = (done.stdout + done.stderr).strip()
    for line in answer.splitlines()[:8]:
        say("", f"-> {line}")
    if done.returncode or expect not in answer:
        raise SystemExit(f"{who} should have answered with {expect!r} (exit status {done.returncode})")


def heard(who: str, process: subprocess.Popen[str], expect: str) -> None:
    """Wait until a running program prints a line with this text."""
    line = next_line(process, expect)
    if expect not in line:
        raise SystemExit(f"{who} never heard {expect!r}")
    say(who, f"heard: {line.strip()}")


def clock_from_everywhere() -> None:
    """Stock tools and a native client call one native service."""
    python = sys.executable
    target = ("org.example.Clock", "/org/example/Clock")
    with running("clock", python, str(HERE / "clock.py"), until="org.example.Clock"):
        say("clock.py (native)", "published org.example.Clock, object /org/example/Clock")
        ask("busctl (D-Bus)", "legacy -> bridge -> native",
            "busctl", "--user", "call", *target, "org.example.Clock1", "Format", "s", "%Y", expect='s "2')
        ask("gdbus (D-Bus)", "legacy -> bridge -> native",
            "gdbus", "call", "--session", "-d", target[0], "-o", target[1],
            "-m", "org.example.Clock1.Format", "%Y", expect="('2")
        ask("dbus-send (D-Bus)", "legacy -> bridge -> native",
            "dbus-send", "--session", "--print-reply", f"--dest={target[0]}", target[1],
            "org.example.Clock1.Format", "string:%Y", expect='string "2')
        ask("busctl (D-Bus)", "introspection of a native object",
            "busctl", "--user", "introspect", *target, expect="org.example.Clock1")
        ask("clock.py call (native)", "native -> native, by handle",
            python, str(HERE / "clock.py"), "call", expect="2")
        listen = ("gdbus", "monitor", "--session", "-d", target[0])
        with running("gdbus monitor", *listen, until="owned by") as monitor:
            heard("gdbus monitor (D-Bus)", monitor, "org.example.Clock1.Ticked")


def notifications_both_ways() -> None:
    """notify-send reaches a native service; a native client reaches a legacy one."""
    python = sys.executable
    notify = str(HERE / "notify.py")
    with running("notify", python, notify, "serve", until="org.freedesktop.Notifications") as service:
        say("notify.py serve (native)", "published org.freedesktop.Notifications")
        ask("notify-send (D-Bus)", "legacy -> bridge -> native",
            "notify-send", "Tea", "It is four o'clock", expect="")
        heard("notify.py serve (native)", service, "Tea")
    legacy = str(HERE / "legacy_notifications.py")
    with running("legacy", python, legacy, until="org.freedesktop.Notifications") as service:
        say("legacy_notifications.py", "owns org.freedesktop.Notifications on D-Bus, with dbus-fast")
        ask("notify.py send (native)", "native -> bridge -> legacy",
            python, notify, "send", "Coffee", "It is ten o'clock", expect="1")
        heard("legacy_notifications.py", service, "Coffee")


def main() -> int:
    """The whole story, on a bus of its own."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bus1-demo-"))
        address = f"unix:path={folder}/bus"
        stack.enter_context(running(
            "bus1-bridge", str(BRIDGE), "--session", "--nofork", f"--address={address}", "--print-address=1",
            until="unix:path=",
        ))
        os.environ["DBUS_SESSION_BUS_ADDRESS"] = address
        os.environ["PYTHONUNBUFFERED"] = "1"
        say("bus1-bridge", f"listens on {address}, for native peers on {folder}/bus1")
        clock_from_everywhere()
        notifications_both_ways()
        ask("busctl (D-Bus)", "who is here", "busctl", "--user", "list", "--no-pager",
            expect="org.freedesktop.DBus")
    say("demo", "everybody was understood")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
