"""desktop_user: what a person does at a desktop, each deed with what must be seen of it.

Theory. A deed goes over the bus where the desktop's own programs do: settings through the service that keeps
them to whoever draws by them, a folder through the name of the file manager. It is over when its effect is
there: on the screen, in an answer, in another process.
"""

from __future__ import annotations

import os
import re
import select
import signal
from functools import partial
from itertools import cycle

from dbus_client import BUS
from desktop import Desktop, wait_for
from desktop_screen import Colour

BACKGROUND: Colour = (51, 102, 153)
CLOCK: Colour = (192, 16, 96)
_FILES = "org.freedesktop.FileManager1"
_NOTIFICATIONS = "org.freedesktop.Notifications"
_PANEL = "org.xfce.Panel"
_OF_THE_SESSION = ("org.xfce.SessionManager", "org.xfce.SettingsDaemon", _PANEL, "org.xfce.xfdesktop")
_OF_SERVICES = (_FILES, _NOTIFICATIONS, "org.xfce.Xfconf", "org.a11y.Bus", "org.gtk.vfs.Daemon")


class User:
    """One who sits before a desktop."""

    def __init__(self, desktop: Desktop) -> None:
        self._desktop = desktop
        self._run = desktop.run

    def wait_for_the_desktop(self) -> None:
        """Everything has come up, what the bus itself has started, too."""
        for name in _OF_THE_SESSION + _OF_SERVICES:
            self._run("gdbus", "wait", "--session", "--timeout=90", name)
        wait_for(lambda: bool(self._clock()), "the panel has a clock")

    def dress_the_desktop(self) -> None:
        """A plain background: xfconf tells xfdesktop, which draws."""
        wait_for(lambda: bool(self._backdrops()), "xfdesktop has put down what it draws")
        colour = [f"{part / 255}" for part in BACKGROUND]
        for backdrop in self._backdrops():
            self._set("xfce4-desktop", f"{backdrop}/image-style", "int", "0")
            self._set("xfce4-desktop", f"{backdrop}/rgba1", "double", *colour, "1")
        many = self._desktop.screen.count
        wait_for(lambda: many(BACKGROUND) > 100_000, "the background has its colour")

    def colour_the_clock(self) -> None:
        """xfconf tells the panel, which draws the time in the colour asked for."""
        clock = self._clock()
        colour = "#{:02x}{:02x}{:02x}".format(*CLOCK)
        text = f'<span background="{colour}" foreground="#ffffff"> %H:%M </span>'
        self._set("xfce4-panel", f"{clock}/digital-layout", "uint", "3")
        self._set("xfce4-panel", f"{clock}/digital-time-format", "string", text)
        self.see_the_clock()

    def see_the_clock(self) -> None:
        """It is drawn, in its colour."""
        wait_for(lambda: self._desktop.screen.count(CLOCK) > 200, "the clock has its colour")

    def remember_something(self, text: str) -> None:
        """What was put into xfconf comes out of it."""
        self._set("bus1", "/remembered", "string", text)
        assert self._run("xfconf-query", "--channel=bus1", "--property=/remembered") == f"{text}\n"

    def change_a_setting(self) -> None:
        """GSettings writes through dconf's service, which the bus starts, and which tells who watches."""
        key = ("org.gtk.Settings.FileChooser", "show-hidden")
        values = cycle(("true", "false"))
        with self._desktop.start("gsettings", "monitor", *key) as monitor:
            told = monitor.stdout
            assert told is not None

            def is_heard() -> bool:
                # the monitor does not say when it has begun to listen
                value = next(values)
                self._run("gsettings", "set", *key, value)
                assert self._run("gsettings", "get", *key) == f"{value}\n"
                return bool(select.select([told], [], [], 1)[0])

            wait_for(is_heard, "a change is told")
            assert told.readline().startswith("show-hidden: ")

    def open_a_folder(self, name: str) -> None:
        """The name of the file manager opens a window; the bus starts it if need be."""
        folder = self._desktop.home / name
        folder.mkdir(exist_ok=True)
        (folder / "letter.txt").write_text("Dear bus\n")
        self._run(
            "gdbus", "call", "--session", f"--dest={_FILES}", "--object-path=/org/freedesktop/FileManager1",
            f"--method={_FILES}.ShowFolders", f"['{folder.as_uri()}']", "",
        )
        self._window("--name", f"^{name} - ")

    def close_the_folder(self, name: str) -> None:
        """Its window goes, as the window manager asks it to."""
        window = self._window("--name", f"^{name} - ")
        self._run("xdotool", "windowactivate", "--sync", window, "key", "alt+F4")
        wait_for(lambda: self._is_closed(window), "the window has gone")

    def throw_away(self, name: str) -> None:
        """gvfs starts a server for the trash, in which a file is found; then it is emptied."""
        (self._desktop.home / name).write_text("Dear bus\n")
        self._run("gio", "trash", name)
        assert self._run("gio", "list", "trash:///") == f"{name}\n"
        self._run("gio", "trash", "--empty")
        assert self._run("gio", "list", "trash:///") == ""

    def answer_a_notification(self) -> None:
        """A notification is shown; its sender hears of the click on it."""
        command = ("notify-send", "--wait", "--action=default=Open", "A letter", "has come over the bus")
        with self._desktop.start(*command) as sender:
            shown = self._window("--class", "xfce4-notifyd")
            self._click(shown)
            assert sender.communicate(timeout=60)[0] == "default\n"
        wait_for(partial(self._is_closed, shown), "the notification has gone")

    def be_notified(self, text: str) -> None:
        """A notification that stays is on the screen, and hides some of the background."""
        before = self._desktop.screen.count(BACKGROUND)
        self._run("notify-send", "--expire-time=0", "bus1", text)
        wait_for(lambda: self._desktop.screen.count(BACKGROUND) < before - 10_000, "the notification is seen")

    def end_services(self) -> None:
        """Who shows folders and notifications ends; whoever needs one of them has the bus start another."""
        for name in (_FILES, _NOTIFICATIONS):
            self._kill(self._owner(name), signal.SIGTERM)
            wait_for(partial(self._is_free, name), f"{name} is given back")

    def find_services_started(self) -> None:
        """They are there again, by activation."""
        for name in (_FILES, _NOTIFICATIONS):
            assert self._owner(name)
            wait_for(partial(self._is_logged, f"Activating service name='{name}'"), f"{name} was started")
            wait_for(partial(self._is_logged, f"Successfully activated service '{name}'"), f"{name} was told")

    def kill_the_panel(self) -> None:
        """The session manager starts another one, which can have the name, and draws."""
        before = self._owner(_PANEL)
        self._kill(before, signal.SIGKILL)
        wait_for(lambda: self._owner(_PANEL) not in {before, ""}, "another panel has the name")
        self.see_the_clock()

    def log_out(self) -> None:
        """The session manager ends the session, and itself with status 0; no name of theirs is left."""
        self._run("xfce4-session-logout", "--logout", "--fast")
        assert self._desktop.session.wait(60) == 0
        for name in _OF_THE_SESSION:
            wait_for(partial(self._is_free, name), f"{name} is given back")

    # ---- how -------------------------------------------------------------------------------------

    def _set(self, channel: str, name: str, kind: str, *values: str) -> None:
        given = [word for value in values for word in ("--type", kind, "--set", value)]
        self._run("xfconf-query", f"--channel={channel}", f"--property={name}", "--create", *given)

    def _backdrops(self) -> list[str]:
        listed = self._run("xfconf-query", "--channel=xfce4-desktop", "--list")
        return re.findall(r"(\S+)/last-image\n", listed)

    def _clock(self) -> str:
        listed = self._run("xfconf-query", "--channel=xfce4-panel", "--list", "--verbose")
        found = re.search(r"^(\S+)\s+clock$", listed, re.M)
        return found[1] if found else ""

    def _window(self, *how: str) -> str:
        return self._run("xdotool", "search", "--sync", "--onlyvisible", *how).split()[0]

    def _is_closed(self, window: str) -> bool:
        return self._desktop.attempt("xdotool", "getwindowname", window).returncode != 0

    def _click(self, window: str) -> None:
        shape = self._run("xdotool", "getwindowgeometry", "--shell", window)
        numbers = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", shape)}
        x, y = numbers["X"] + numbers["WIDTH"] // 2, numbers["Y"] + numbers["HEIGHT"] - 30
        self._run("xdotool", "mousemove", str(x), str(y), "click", "1")

    def _owner(self, name: str) -> str:
        return self._ask_the_bus("GetNameOwner", name)

    def _is_logged(self, text: str) -> bool:
        return text in self._desktop.log()

    def _kill(self, owner: str, number: int) -> None:
        os.kill(int(self._ask_the_bus("GetConnectionUnixProcessID", owner)), number)

    def _is_free(self, name: str) -> bool:
        return not self._owner(name)

    def _ask_the_bus(self, member: str, name: str) -> str:
        """The answer; empty if nobody has the name."""
        asked = ("busctl", "--user", "call", BUS, "/org/freedesktop/DBus", BUS, member, "s", name)
        done = self._desktop.attempt(*asked)
        return done.stdout.split()[1].strip('"') if done.returncode == 0 else ""
