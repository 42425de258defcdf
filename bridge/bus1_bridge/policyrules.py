"""policyrules: one ``<allow>`` or ``<deny>`` of a busconfig file as data.

Theory. ``rule_of`` turns an element's attributes into a ``Rule``, or says in the reference's words why it
is none. A rule is of one kind: it is about sending, receiving, owning a name, or connecting. What it
doesn't ask for is None; ``*`` in a file means the same.

Not here: which rules concern whom (policy), the elements around a rule (busconfig).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

SEND, RECEIVE, OWN, USER, GROUP = "send", "receive", "own", "user", "group"

TYPES = {"method_call": 1, "method_return": 2, "error": 3, "signal": 4}
"""Of messages, with the numbers of ``wire``, which is not loaded yet when a configuration is read."""
MOST_FDS = 33_554_432
"""Beyond the protocol's maximum of descriptors: any number."""
EVERYBODY = -1
"""The ``*`` of a user or group rule."""
NOBODY_KNOWN = -2
"""A user or group whose name could not be resolved."""

ATTRIBUTES = frozenset({
    "send_interface", "send_member", "send_error", "send_destination", "send_destination_prefix", "send_path",
    "send_type", "send_requested_reply", "send_broadcast", "receive_interface", "receive_member",
    "receive_error", "receive_sender", "receive_path", "receive_type", "receive_requested_reply", "eavesdrop",
    "min_fds", "max_fds", "own", "own_prefix", "user", "group", "log",
})
_LONELY = ("own", "own_prefix", "user", "group")


RuleData = tuple[
    tuple[str | None, str | None, str | None, str | None], str | None,
    tuple[bool, bool, bool, bool, bool], tuple[int, bool | None, int, int],
]
"""What a rule about messages says, without its text and its place."""


class RuleError(ValueError):
    """The attributes make no rule; the text says why."""


class Rule:
    """One rule; never changed once it is made."""

    __slots__ = (
        "allow", "broadcast", "eavesdrop", "error", "file", "interface", "is_prefix", "kind", "line", "log",
        "max_fds", "member", "min_fds", "name", "path", "requested_reply", "subject", "text", "type",
    )
    kind: str
    allow: bool
    text: str
    """The element as it stands in the file."""
    file: str
    line: int
    type: int
    """Of messages; 0 for any."""
    interface: str | None
    member: str | None
    error: str | None
    path: str | None
    name: str | None
    """Whom a send rule is for, whom a receive rule is about, or what may be owned; None for any."""
    is_prefix: bool
    """``name`` stands for itself and for what continues it after a dot."""
    requested_reply: bool
    eavesdrop: bool
    broadcast: bool | None
    min_fds: int
    max_fds: int
    log: bool
    subject: int
    """Number of the user or group, ``EVERYBODY`` or ``NOBODY_KNOWN``."""

    def __init__(self, kind: str, allow: bool, text: str = "", file: str = "", line: int = 0) -> None:
        self.kind, self.allow, self.text, self.file, self.line = kind, allow, text, file, line
        self.type = 0
        self.interface = self.member = self.error = self.path = self.name = None
        # an allow rule is about answers that were asked for, a deny rule about the others
        self.requested_reply = allow
        self.is_prefix = self.eavesdrop = self.log = False
        self.broadcast = None
        self.min_fds, self.max_fds = 0, MOST_FDS
        self.subject = EVERYBODY

    def __str__(self) -> str:
        return f"{self.text} ({self.place})"

    def as_data(self) -> RuleData:
        """As plain values: texts, whom it is about, flags, numbers."""
        return (
            (self.interface, self.member, self.error, self.path), self.name,
            (self.allow, self.is_prefix, self.requested_reply, self.eavesdrop, self.log),
            (self.type, self.broadcast, self.min_fds, self.max_fds),
        )

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"

    @property
    def has_conditions(self) -> bool:
        """There are messages of its direction that it leaves alone, unasked-for answers and copies apart."""
        return bool(
            self.type or self.interface is not None or self.member is not None or self.error is not None
            or self.path is not None or self.name is not None or self.broadcast is not None
            or self.counts_fds
        )

    @property
    def counts_fds(self) -> bool:
        """The number of descriptors matters."""
        return self.min_fds > 0 or self.max_fds < MOST_FDS

    @property
    def is_total(self) -> bool:
        """It decides about everything of its direction, so no rule before it counts."""
        if self.kind == OWN:
            return self.name is None
        if self.has_conditions:
            return False
        if self.kind == SEND:
            return self.eavesdrop or not self.requested_reply if self.allow else self.requested_reply
        return self.eavesdrop if self.allow else self.requested_reply and not self.eavesdrop


class Contexts:
    """All rules of a configuration by whom they concern, each list in the order of the files."""

    __slots__ = ("by_group", "by_user", "console", "default", "mandatory", "no_console")

    def __init__(self) -> None:
        self.default: list[Rule] = []
        self.by_group: dict[int, list[Rule]] = {}
        self.by_user: dict[int, list[Rule]] = {}
        self.console: list[Rule] = []
        """For users who sit at the machine."""
        self.no_console: list[Rule] = []
        """For all others."""
        self.mandatory: list[Rule] = []

    def lists(self) -> Iterator[tuple[list[Rule], bool]]:
        """Each of the lists, and whether it is about everybody."""
        yield self.default, True
        for rules in (*self.by_group.values(), *self.by_user.values(), self.console):
            yield rules, False
        yield self.no_console, True
        yield self.mandatory, True

    def rules(self) -> Iterator[Rule]:
        """All of them."""
        for rules, _ in self.lists():
            yield from rules

    def take_over(self, other: Contexts) -> None:
        """The rules of an included file, behind those that are here."""
        self.default += other.default
        self.console += other.console
        self.no_console += other.no_console
        self.mandatory += other.mandatory
        for mine, theirs in ((self.by_user, other.by_user), (self.by_group, other.by_group)):
            for number, rules in theirs.items():
                mine.setdefault(number, []).extend(rules)


def rule_of(
    allow: bool, given: Mapping[str, str], text: str, place: tuple[str, int],
    number_of: Callable[[str, str], int],
) -> Rule:
    """The rule with these attributes; RuleError. ``number_of(USER or GROUP, name)`` resolves names."""
    tag = "allow" if allow else "deny"
    kind = _kind(tag, given)
    rule = Rule(kind, allow, text, *place)
    if kind in (USER, GROUP):
        rule.subject = EVERYBODY if given[kind] == "*" else number_of(kind, given[kind])
    elif kind == OWN:
        rule.is_prefix = "own_prefix" in given
        rule.name = given["own_prefix"] if rule.is_prefix else _any(given.get("own"))
    else:
        _fill(rule, given)
    return rule


def _kind(tag: str, given: Mapping[str, str]) -> str:
    sends = any(key.startswith("send_") for key in given)
    receives = any(key.startswith("receive_") for key in given) or ("eavesdrop" in given and not sends)
    lonely = [key for key in _LONELY if key in given]
    if not (sends or receives or lonely):
        raise RuleError(f"Element <{tag}> must have one or more attributes")
    for direction in (SEND, RECEIVE):
        if f"{direction}_member" in given and not (
            f"{direction}_interface" in given or f"{direction}_path" in given
        ):
            raise RuleError(
                f"On element <{tag}>, if you specify a member you must specify an interface or a path. "
                "Keep in mind that not all messages have an interface field."
            )
    speaks = sends or receives or "min_fds" in given or "max_fds" in given
    if len(lonely) + speaks > 1:
        raise _contradiction(tag, "own, own_prefix, user, group and the message-related attributes "
                                  "cannot be combined")
    if sends and receives:
        raise _contradiction(tag, "send and receive attributes cannot be combined")
    if lonely:
        return OWN if lonely[0] == "own_prefix" else lonely[0]
    direction = SEND if sends else RECEIVE
    if f"{direction}_error" in given and (
        f"{direction}_member" in given or f"{direction}_interface" in given
    ):
        raise _contradiction(
            tag, f"{direction}_error cannot be combined with {direction}_member or {direction}_interface"
        )
    if "send_destination" in given and "send_destination_prefix" in given:
        raise _contradiction(tag, "send_destination cannot be combined with send_destination_prefix")
    return direction


def _contradiction(tag: str, text: str) -> RuleError:
    return RuleError(f"Invalid combination of attributes on element <{tag}>: {text}")


def _fill(rule: Rule, given: Mapping[str, str]) -> None:
    """The conditions of a rule about messages."""
    kind = rule.kind
    rule.interface = _any(given.get(f"{kind}_interface"))
    rule.member = _any(given.get(f"{kind}_member"))
    rule.error = _any(given.get(f"{kind}_error"))
    rule.path = _any(given.get(f"{kind}_path"))
    rule.name = _any(given.get("send_destination" if kind == SEND else "receive_sender"))
    if "send_destination_prefix" in given:
        rule.name = _any(given["send_destination_prefix"])
        rule.is_prefix = rule.name is not None
    type_ = _any(given.get(f"{kind}_type"))
    if type_ is not None:
        if type_ not in TYPES:
            raise RuleError(f'Bad message type "{type_}"')
        rule.type = TYPES[type_]
    rule.eavesdrop = _flag(given, "eavesdrop") or False
    requested = _flag(given, f"{kind}_requested_reply")
    if requested is not None:
        rule.requested_reply = requested
    if kind == SEND:
        rule.broadcast = _flag(given, "send_broadcast")
        rule.log = given.get("log") == "true"
    if rule.broadcast and rule.name is not None and not rule.is_prefix:
        raise RuleError('send_broadcast="true" cannot be combined with a destination: a broadcast has none')
    rule.min_fds, rule.max_fds = _count(given, "min_fds", 0), _count(given, "max_fds", MOST_FDS)


def _any(value: str | None) -> str | None:
    return None if value == "*" else value


def _flag(given: Mapping[str, str], key: str) -> bool | None:
    value = given.get(key)
    if value not in (None, "true", "false"):
        raise RuleError(f'Bad value "{value}" for {key} attribute, must be true or false')
    return None if value is None else value == "true"


def _count(given: Mapping[str, str], key: str, default: int) -> int:
    text = given.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > MOST_FDS:
        raise RuleError(
            f'Bad value "{text}" for {key} attribute, must be an integer in range 0 to {MOST_FDS} inclusive'
        )
    return int(text)
