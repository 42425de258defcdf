"""busconfig: what the files of busconfig(5) say, as data.

Theory. A ``BusConfig`` is filled by reading its files (``configxml``), and only read afterwards. What the
machine has to tell for that comes through ``Sources``. The rules of policies lie in it by context,
uncompiled; ``policy`` and ``limits`` make of it what the Switch needs, once and when somebody asks:
a bus listens before it needs them.

Not here: the syntax (configxml), reading files (configfiles), what rules mean (policy).
"""

from __future__ import annotations

from collections.abc import Iterable

from .policyrules import Contexts

TYPE_CHECKING = False
if TYPE_CHECKING:
    # without typing, which takes longer to import than a configuration to read
    from .policy import Policy
    from .switch.limits import BusLimits
    from .userlimits import UserLimits

LIMITS: dict[str, int] = {
    "max_incoming_bytes": 133_169_152, "max_incoming_unix_fds": 64,
    "max_outgoing_bytes": 133_169_152, "max_outgoing_unix_fds": 64,
    "max_message_size": 33_554_432, "max_message_unix_fds": 16,
    "service_start_timeout": 25_000, "auth_timeout": 30_000, "pending_fd_timeout": 150_000,
    "reply_timeout": -1, "max_completed_connections": 2048, "max_incomplete_connections": 64,
    "max_connections_per_user": 256, "max_pending_service_starts": 512, "max_names_per_connection": 512,
    "max_match_rules_per_connection": 512, "max_replies_per_connection": 128, "max_containers": 512,
    "max_containers_per_user": 16, "max_container_metadata_bytes": 4096, "max_connections_per_container": 8,
}
"""Every limit and its value where no file says anything; times in milliseconds."""


class ConfigError(ValueError):
    """The configuration can't be used; the text says why, with file and line where there are."""


class ServiceDir:
    """A directory of .service files."""

    __slots__ = ("is_strict", "is_watched", "path")

    def __init__(self, path: str, *, is_strict: bool = False, is_watched: bool = True) -> None:
        self.path = path
        self.is_strict = is_strict
        """Files in it must be called ``NAME.service``."""
        self.is_watched = is_watched

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ServiceDir) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"ServiceDir{self._key()}"

    def _key(self) -> tuple[str, bool, bool]:
        return self.path, self.is_strict, self.is_watched


class Sources:
    """What reading a configuration needs of the machine; ``configfiles`` has the real one."""

    def content(self, path: str) -> bytes:
        """The content of a file; OSError."""
        raise FileNotFoundError(path)

    def entries(self, path: str) -> list[str]:
        """The names in a directory; OSError."""
        raise FileNotFoundError(path)

    def number_of(self, kind: str, name: str) -> int | None:
        """The number of a user or group; None if there is none of this name."""
        raise NotImplementedError

    def service_dirs(self, kind: str) -> Iterable[ServiceDir]:
        """The standard directories of a ``session`` or ``system`` bus."""
        raise NotImplementedError


class BusConfig:
    """All that the files say; read only, once it is whole."""

    __slots__ = (
        "_limits", "_policy", "allows_anonymous", "apparmor", "auth", "console_uids", "contexts", "files",
        "forks", "keeps_umask", "limit_values", "listen", "pidfile", "selinux", "service_dirs",
        "servicehelper", "syslog", "type", "user", "user_limits", "warnings",
    )

    def __init__(self, limits: dict[str, int] | None = None) -> None:
        self.type: str | None = None
        self.user: str | None = None
        self.listen: tuple[str, ...] = ()
        self.auth: tuple[str, ...] = ()
        """Mechanisms of the authentication; none means all."""
        self.forks = self.keeps_umask = self.allows_anonymous = self.syslog = False
        self.pidfile: str | None = None
        self.servicehelper: str | None = None
        self.service_dirs: tuple[ServiceDir, ...] = ()
        self.limit_values = dict(LIMITS if limits is None else limits)
        """In the units of the file."""
        self.contexts = Contexts()
        """The rules of all policies."""
        self.console_uids: frozenset[int] = frozenset()
        """Who sits at the machine; looked up only if rules ask for it."""
        self.selinux: dict[str, str] = {}
        """The security context of each name that has one."""
        self.apparmor = "enabled"
        self.files: tuple[str, ...] = ()
        """Every file and directory that was read or looked for."""
        self.warnings: tuple[str, ...] = ()
        self.user_limits: UserLimits | None = None
        """What a file of another kind says of single users."""
        self._policy: Policy | None = None
        self._limits: BusLimits | None = None

    @property
    def policy(self) -> Policy:
        """The rules, compiled."""
        if self._policy is None:
            from .policy import Policy

            self._policy = Policy(self.contexts, self.console_uids)
        return self._policy

    @property
    def limits(self) -> BusLimits:
        """The limits as the Switch takes them."""
        if self._limits is None:
            from .switch.limits import BusLimits

            self._limits = BusLimits.of(self.limit_values)
            if self.user_limits is not None:
                self._limits = self.user_limits.applied_to(self._limits)
        return self._limits

    def take_over(self, other: BusConfig) -> None:
        """All that an included file says; whether to use syslog is the top file's alone."""
        for key in ("type", "user", "pidfile", "servicehelper"):
            if getattr(other, key) is not None:
                setattr(self, key, getattr(other, key))
        for key in ("forks", "keeps_umask", "allows_anonymous"):
            setattr(self, key, getattr(self, key) or getattr(other, key))
        for key in ("listen", "auth", "service_dirs", "files", "warnings"):
            setattr(self, key, getattr(self, key) + getattr(other, key))
        self.contexts.take_over(other.contexts)
        self.limit_values = other.limit_values
        self.selinux.update(other.selinux)
        self.apparmor = other.apparmor
