"""configxml: the syntax of busconfig(5).

Theory. ``read`` walks one file with expat and fills a ``BusConfig``. What is nested (``<include>``,
``<includedir>``) comes through ``Sources``, so this file touches nothing. A nested file is read into a
config of its own, and taken over when it is whole: a broken one leaves no trace. ``_ELEMENTS`` is the table
of what may stand where, with which attributes, and whether text belongs into it; everything else is an
error with file and line.

Invariants. 1. ``read`` raises, or the config has all of the file. 2. No file is larger than ``FILE_MAX``,
there are at most ``FILES_MAX`` of them, and no entity stands for more than ``ENTITY_MAX`` characters.

Not here: reading files (configfiles), the attributes of rules (policyrules).
"""

from __future__ import annotations

import pyexpat
from collections.abc import Callable, Iterable

from .busconfig import LIMITS, BusConfig, ConfigError, ServiceDir, Sources
from .policyrules import ATTRIBUTES, GROUP, NOBODY_KNOWN, USER, Rule, RuleError, rule_of

FILE_MAX = 4 << 20
FILES_MAX = 4096
DEPTH_MAX = 32
"""Files within files."""
ENTITY_MAX = 4096
MECHANISMS = ("EXTERNAL", "DBUS_COOKIE_SHA1", "ANONYMOUS")
_INT_MAX, _LONG_MAX = 2**31 - 1, 2**63 - 1
_LONG_LIMITS = frozenset({
    "max_incoming_bytes", "max_outgoing_bytes", "max_message_size", "max_incoming_unix_fds",
    "max_outgoing_unix_fds", "max_message_unix_fds",
})


def read(path: str, sources: Sources, content: bytes | None = None) -> BusConfig:
    """The configuration that starts with this file; ConfigError."""
    return _File(path, sources, BusConfig(), (), []).read(content)


class _Element:
    """An open element: its name, its attributes, and the text in it."""

    __slots__ = ("attributes", "line", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str], line: int) -> None:
        self.name, self.attributes, self.line = name, attributes, line
        self.text = ""


class _File:
    """One file on its way into ``config``.

    ``outer`` are the files that it is included from, ``all_files`` those that were opened so far."""

    def __init__(
        self, path: str, sources: Sources, config: BusConfig, outer: tuple[str, ...], all_files: list[str]
    ) -> None:
        self.path, self.sources, self.config, self.all_files = path, sources, config, all_files
        self.outer = (*outer, path)
        all_files.append(path)
        self.open: list[_Element] = []
        self.rules: list[Rule] | None = None
        """Where the rules of the policy that is open go; None for nowhere."""
        self.policy = ""
        self._entities: dict[str, int] = {}
        self._parser = pyexpat.ParserCreate()

    def read(self, content: bytes | None = None) -> BusConfig:
        """Fill the config and return it."""
        self.config.files += (self.path,)
        if content is None:
            try:
                content = self.sources.content(self.path)
            except OSError as error:
                raise ConfigError(f'Failed to open "{self.path}": {error.strerror}') from error
        if len(content) > FILE_MAX:
            raise ConfigError(f"{self.path}: larger than {FILE_MAX} bytes")
        parser = self._parser
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._entity
        parser.SkippedEntityHandler = self._skipped
        try:
            parser.Parse(content, True)
        except pyexpat.ExpatError as error:
            text = pyexpat.ErrorString(error.code)
            raise ConfigError(f"{self.path}:{error.lineno}: {text}") from None
        return self.config

    def fail(self, text: str, line: int = 0) -> ConfigError:
        """The error of this place."""
        return ConfigError(f"{self.path}:{line or self._parser.CurrentLineNumber}: {text}")

    def warn(self, text: str) -> None:
        """Something that is wrong but no reason to stop."""
        self.config.warnings += (f"{self.path}:{self._parser.CurrentLineNumber}: {text}",)

    # ---- what expat tells ------------------------------------------------------------------------

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self.open[-1].name if self.open else ""
        known = _ELEMENTS.get((parent, name))
        if known is None:
            if not parent:
                raise self.fail(f"Unknown element <{name}> at root of configuration file")
            raise self.fail(f"Element <{name}> not allowed inside <{parent}> in configuration file")
        for key in attributes:
            if key not in known.attributes:
                raise self.fail(f'Attribute "{key}" is invalid on <{name}> element in this context')
        element = _Element(name, attributes, self._parser.CurrentLineNumber)
        self.open.append(element)
        if known.start is not None:
            known.start(self, element)

    def _end(self, name: str) -> None:
        element = self.open.pop()
        known = _ELEMENTS[self.open[-1].name if self.open else "", name]
        if known.end is None:
            return
        # the reference keeps the blanks of these, but nobody means them
        element.text = element.text.strip()
        if not element.text:
            raise self.fail(f"XML element <{name}> was expected to have content inside it")
        known.end(self, element)

    def _text(self, data: str) -> None:
        element = self.open[-1]
        parent = self.open[-2].name if len(self.open) > 1 else ""
        if _ELEMENTS[parent, element.name].end is not None:
            element.text += data
        elif not data.isspace():
            raise self.fail(
                f"No text content expected inside XML element {element.name} in configuration file"
            )

    def _entity(
        self, name: str, is_parameter: bool, value: str | None, _base: str | None, _system: str | None,
        _public: str | None, _notation: str | None,
    ) -> None:
        if is_parameter or value is None:
            raise self.fail(f'Entity "{name}" is none that stands in this file')
        pieces = value.split("&")
        inner = (self._entities.get(piece.partition(";")[0], 0) for piece in pieces[1:])
        self._entities[name] = len(value) + sum(inner)
        if self._entities[name] > ENTITY_MAX:
            raise self.fail(f'Entity "{name}" stands for more than {ENTITY_MAX} characters')

    def _skipped(self, name: str, _is_parameter: bool) -> None:
        raise self.fail(f'Unknown entity "{name}"')

    # ---- elements --------------------------------------------------------------------------------

    def include(self, element: _Element) -> None:
        """Another file, in this place."""
        ignores_missing = self._yes(element, "ignore_missing")
        if self._yes(element, "if_selinux_enabled"):
            # this bus takes every machine for one without SELinux
            return
        if self._yes(element, "selinux_root_relative"):
            raise self.fail("Could not determine SELinux policy root for relative inclusion")
        path = self._full(element.text)
        try:
            content = self.sources.content(path)
        except OSError as error:
            if not (ignores_missing and isinstance(error, FileNotFoundError)):
                raise self.fail(f'Failed to open "{path}": {error.strerror}') from error
            self.config.files += (path,)
        else:
            self._take(path, content)

    def include_dir(self, element: _Element) -> None:
        """The ``*.conf`` of a directory, sorted; a broken one is skipped."""
        folder = self._full(element.text)
        self.config.files += (folder,)
        try:
            names = sorted(self.sources.entries(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self.fail(f'Failed to open "{folder}": {error.strerror}') from error
        for name in names:
            if name.endswith(".conf"):
                try:
                    self._take(f"{folder.rstrip('/')}/{name}")
                except ConfigError as error:
                    self.warn(f"Encountered error '{error}' while parsing '{folder}/{name}'")

    def service_dir(self, element: _Element) -> None:
        """One more directory of .service files."""
        self.config.service_dirs += (ServiceDir(self._full(element.text)),)

    def standard_dirs(self, element: _Element) -> None:
        """The usual ones."""
        kind = "system" if "system" in element.name else "session"
        self.config.service_dirs += tuple(self.sources.service_dirs(kind))

    def limit(self, element: _Element) -> None:
        """The value of a limit."""
        name, text = element.attributes["name"], element.text
        if name not in LIMITS:
            raise self.fail(f'There is no limit called "{name}"')
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
            raise self.fail(f'<limit name="{name}">: the value "{text}" could not be parsed as an integer')
        value = int(text)
        if value < 0:
            raise self.fail(f'<limit name="{name}"> must be a positive number')
        if value > (_LONG_MAX if name in _LONG_LIMITS else _INT_MAX):
            raise self.fail(f'<limit name="{name}"> value is too large')
        self.config.limit_values[name] = value

    def check_limit(self, element: _Element) -> None:
        """A limit says which one it is."""
        if "name" not in element.attributes:
            raise self.fail('<limit> element must have a "name" attribute')

    def auth(self, element: _Element) -> None:
        """One more mechanism that is allowed."""
        if element.text not in MECHANISMS:
            raise self.fail(
                f'Unsupported auth mechanism "{element.text}" in bus config file detected. '
                f'Supported mechanisms are "{", ".join(MECHANISMS)}".'
            )
        self.config.auth += (element.text,)

    def associate(self, element: _Element) -> None:
        """The security context of a name."""
        own, context = element.attributes.get("own"), element.attributes.get("context")
        if own is None or context is None:
            raise self.fail(
                'Element <associate> must have attributes own="<servicename>" and '
                'context="<selinux context>"'
            )
        self.config.selinux[own] = context

    def apparmor(self, element: _Element) -> None:
        """How much AppArmor counts."""
        mode = element.attributes.get("mode", "enabled")
        if mode not in ("enabled", "disabled", "required"):
            raise self.fail('Mode attribute on <apparmor> must be "enabled", "required" or "disabled"')
        self.config.apparmor = mode

    def start_policy(self, element: _Element) -> None:
        """Whom the rules in it concern."""
        if len(element.attributes) != 1:
            raise self.fail(
                "<policy> element must have exactly one of (context|user|group|at_console) attributes"
            )
        ((self.policy, value),) = element.attributes.items()
        contexts = self.config.contexts
        if self.policy in (USER, GROUP):
            number = self.sources.number_of(self.policy, value)
            table = contexts.by_user if self.policy == USER else contexts.by_group
            self.rules = None if number is None else table.setdefault(number, [])
            if number is None:
                what = "username" if self.policy == USER else "group"
                self.warn(f'Unknown {what} "{value}" in message bus configuration file')
            return
        places = {"default": contexts.default, "mandatory": contexts.mandatory}
        if self.policy == "at_console":
            places = {"true": contexts.console, "false": contexts.no_console}
        if value not in places:
            expected = " or ".join(f'"{place}"' for place in places)
            raise self.fail(
                f'{self.policy} attribute on <policy> must have the value {expected}, not "{value}"'
            )
        self.rules = places[value]

    def rule(self, element: _Element) -> None:
        """An ``<allow>`` or ``<deny>``."""
        attributes, name = element.attributes, element.name
        text = f"<{name}{''.join(f' {key}={_quoted(value)}' for key, value in attributes.items())}/>"
        try:
            rule = rule_of(
                name == "allow", attributes, text, (self.path, element.line), self._number_for_rule
            )
        except RuleError as error:
            raise self.fail(str(error)) from None
        if rule.kind in (USER, GROUP) and self.policy in (USER, GROUP) and self.rules is not None:
            raise self.fail(
                f"<{name}> rule cannot be per-{self.policy} because it has bus-global semantics"
            )
        if self.rules is not None:
            self.rules.append(rule)

    def _number_for_rule(self, kind: str, name: str) -> int:
        number = self.sources.number_of(kind, name)
        if number is None:
            what = "username" if kind == USER else "group"
            self.warn(f'Unknown {what} "{name}" on element <{self.open[-1].name}>')
            return NOBODY_KNOWN
        return number

    # ---- parts of them ---------------------------------------------------------------------------

    def _take(self, path: str, content: bytes | None = None) -> None:
        if path in self.outer:
            raise self.fail(f"Circular inclusion of file '{path}'")
        if len(self.outer) >= DEPTH_MAX:
            raise self.fail(f"Files are included {DEPTH_MAX} deep")
        if len(self.all_files) >= FILES_MAX:
            raise self.fail(f"More than {FILES_MAX} files are included")
        config = BusConfig(self.config.limit_values)
        config.apparmor = self.config.apparmor
        self.config.take_over(
            _File(path, self.sources, config, self.outer, self.all_files).read(content)
        )

    def _full(self, name: str) -> str:
        return name if name.startswith("/") else f"{self.path.rpartition('/')[0] or '.'}/{name}"

    def _yes(self, element: _Element, key: str) -> bool:
        value = element.attributes.get(key, "no")
        if value not in ("yes", "no"):
            raise self.fail(f'<include> attribute "{key}" must have value "yes" or "no", not "{value}"')
        return value == "yes"


def _quoted(value: str) -> str:
    return '"' + value.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;") + '"'


class _Known:
    """What an element may have, and what becomes of it: at its beginning, or with its text at its end."""

    __slots__ = ("attributes", "end", "start")

    def __init__(
        self, start: Callable[[_File, _Element], None] | None = None,
        end: Callable[[_File, _Element], None] | None = None, attributes: Iterable[str] = (),
    ) -> None:
        self.start, self.end, self.attributes = start, end, frozenset(attributes)


def _flag(key: str) -> _Known:
    return _Known(start=lambda file, _: setattr(file.config, key, True))


def _value(key: str) -> _Known:
    return _Known(end=lambda file, element: setattr(file.config, key, element.text))


def _listen(file: _File, element: _Element) -> None:
    file.config.listen += (element.text,)


_ELEMENTS: dict[tuple[str, str], _Known] = {
    ("", "busconfig"): _Known(),
    **{("busconfig", name): known for name, known in {
        "type": _value("type"),
        "user": _value("user"),
        "pidfile": _value("pidfile"),
        "servicehelper": _value("servicehelper"),
        "fork": _flag("forks"),
        "keep_umask": _flag("keeps_umask"),
        "allow_anonymous": _flag("allows_anonymous"),
        "syslog": _flag("syslog"),
        "listen": _Known(end=_listen),
        "auth": _Known(end=_File.auth),
        "servicedir": _Known(end=_File.service_dir),
        "standard_session_servicedirs": _Known(_File.standard_dirs),
        "standard_system_servicedirs": _Known(_File.standard_dirs),
        "include": _Known(
            end=_File.include, attributes=("ignore_missing", "if_selinux_enabled", "selinux_root_relative")
        ),
        "includedir": _Known(end=_File.include_dir),
        "limit": _Known(_File.check_limit, _File.limit, ("name",)),
        "policy": _Known(_File.start_policy, attributes=("context", "user", "group", "at_console")),
        "selinux": _Known(),
        "apparmor": _Known(_File.apparmor, attributes=("mode",)),
    }.items()},
    ("selinux", "associate"): _Known(_File.associate, attributes=("own", "context")),
    ("policy", "allow"): _Known(_File.rule, attributes=ATTRIBUTES),
    ("policy", "deny"): _Known(_File.rule, attributes=ATTRIBUTES),
}
