"""identity: the user as whom a bus serves.

Theory. A bus that starts as root binds its sockets and writes its pid file, then becomes the user that the
configuration names, for good. Who isn't root can't change, and serves as who he is; nor can the root of a
user namespace that doesn't have the user.

Invariants. 1. A bus that could change and did not succeed does not serve.

Not here: when (process).
"""

from __future__ import annotations

import errno
import os
import pwd

from .options import StartError


class Identity:
    """A user by the name or number that the configuration has."""

    def __init__(self, name: str) -> None:
        """StartError if there is no such user."""
        try:
            entry = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
        except (KeyError, OverflowError) as error:
            raise StartError(f'Could not get UID and GID for username "{name}"') from error
        self.name, self.uid, self.gid = entry.pw_name, entry.pw_uid, entry.pw_gid

    def assume(self) -> str:
        """Become this user; what people should know of it, or nothing. StartError."""
        if (os.getuid(), os.geteuid(), os.getgid()) == (self.uid, self.uid, self.gid):
            return ""
        if os.geteuid() != 0:
            return f"not root, so not able to serve as {self.name}: serving as uid {os.geteuid()}"
        warning = ""
        try:
            os.initgroups(self.name, self.gid)
        except OSError as error:
            # a user namespace may forbid it, and has few groups then
            warning = f"Failed to set the supplementary groups of {self.name}: {error.strerror}"
        for kind, change, number in (("GID", os.setresgid, self.gid), ("UID", os.setresuid, self.uid)):
            try:
                change(number, number, number)
            except OSError as error:
                if error.errno == errno.EINVAL and kind == "GID":
                    return f"{self.name} is no user of this namespace: serving as its root"
                raise StartError(f"Failed to set {kind} to {number}: {error.strerror}") from error
        return warning
