"""Every configuration file of Debian's dbus-tests, and many small ones, judged as dbus-daemon judges them."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bus1_bridge import configfiles
from bus1_bridge.busconfig import BusConfig, ConfigError

DATA = Path("/usr/lib/dbus-1.0/installed-tests/dbus/data")
SHARED = Path("/usr/share")


def confs(*folders: str) -> list[Path]:
    """The files of dbus-tests in these folders."""
    return [path for folder in folders for path in sorted((DATA / folder).rglob("*.conf"))]


def without_listen(path: Path) -> bool:
    """It is made to be included."""
    return path.parent.name in ("basic.d", "system.d")


VALID = confs("valid-config-files", "valid-config-files-system", "equiv-config-files")
INVALID = confs("invalid-config-files")


def test_the_vectors_are_there() -> None:
    assert len(VALID) >= 35
    assert len(INVALID) >= 30


@pytest.mark.parametrize("path", VALID, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_valid_file_loads(path: Path) -> None:
    config = configfiles.load(str(path), needs_listen=not without_listen(path))
    assert config.files[0] == str(path)
    config.policy.of_client(0, [0])
    assert config.limits.max_message_size


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.name)
def test_an_invalid_file_is_an_error_with_its_place(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.conf:\d+: "):
        configfiles.load(str(path))


@pytest.mark.parametrize("folder", ["basic", "entities"])
def test_an_included_file_says_the_same_as_the_file_itself(folder: str) -> None:
    first, second = (
        configfiles.load(str(DATA / "equiv-config-files" / folder / f"{folder}-{i}.conf")) for i in (1, 2)
    )
    assert told(first) == told(second)


def told(config: BusConfig) -> dict[str, object]:
    """What a configuration says, its files apart."""
    keys = ("type", "user", "listen", "auth", "forks", "service_dirs", "limit_values", "selinux")
    return {key: getattr(config, key) for key in keys} | {
        "rules": [(rule.text, rule.line) for rule in config.contexts.default]
    }


def allow(attributes: str) -> str:
    return f"<policy context='default'><allow {attributes}/></policy>"


SNIPPETS = {
    # what                                             the whole content, without <busconfig> and <listen>
    "nothing": "",
    "comments and blanks": "<!-- a --> \n\t <!-- b -->",
    "stray text": "text",
    "stray text in a policy": "<policy context='default'>text</policy>",
    "stray text in a rule": "<policy context='default'><allow own='*'>text</allow></policy>",
    "stray text in a flag": "<fork>yes</fork>",
    "CDATA as a value": "<type><![CDATA[session]]></type>",
    "an entity in a value": "<type>sessi&#111;n</type>",
    "an unknown element": "<bees/>",
    "an element in the wrong place": "<allow own='*'/>",
    "an element in an element": "<user><fork/></user>",
    "busconfig in busconfig": "<busconfig/>",
    "an attribute on a flag": "<fork now='yes'/>",
    "an attribute twice": "<policy context='default' context='default'/>",
    **{f"an empty {tag}": f"<{tag}/>" for tag in (
        "type", "user", "pidfile", "listen", "auth", "servicedir", "servicehelper", "include", "includedir",
    )},
    "each flag twice": "<fork/><fork/><keep_umask/><keep_umask/><syslog/><syslog/><allow_anonymous/>",
    "an unknown mechanism": "<auth>NONE</auth>",
    "all mechanisms": "<auth>EXTERNAL</auth><auth>DBUS_COOKIE_SHA1</auth><auth>ANONYMOUS</auth>",
    "a missing file": "<include>/nonexistent.conf</include>",
    "a missing file that may be missing": "<include ignore_missing='yes'>/nonexistent.conf</include>",
    "a bad yes": "<include ignore_missing='true'>/nonexistent.conf</include>",
    "a missing directory": "<includedir>/nonexistent</includedir>",
    "a policy for nobody": "<policy/>",
    "a policy for two": "<policy user='root' group='root'/>",
    "a policy in no context": "<policy context='elsewhere'/>",
    "a policy at no console": "<policy at_console='yes'/>",
    "a policy of an unknown user": "<policy user='nosuchuser'><allow own='*'/></policy>",
    "a policy of an unknown group": "<policy group='nosuchgroup'><allow own='*'/></policy>",
    "a bad rule of an unknown user": "<policy user='nosuchuser'><allow/></policy>",
    "a user within a user": "<policy user='root'><allow user='root'/></policy>",
    "a group within a group": "<policy group='root'><deny group='root'/></policy>",
    "a user within an unknown user": "<policy user='nosuchuser'><allow user='root'/></policy>",
    "a user at the console": "<policy at_console='true'><allow user='root'/></policy>",
    "an unknown user": allow("user='nosuchuser'"),
    "an unknown group": allow("group='nosuchgroup'"),
    "a user by number": "<policy user='0'><allow own='*'/></policy>",
    "a rule about nothing": allow(""),
    "a rule about descriptors alone": allow("min_fds='1'"),
    "a rule that only logs": allow("log='true'"),
    "too many descriptors": allow("send_type='signal' max_fds='33554433'"),
    "many descriptors": allow("send_type='signal' max_fds='33554432'"),
    "fewer than no descriptors": allow("send_type='signal' min_fds='-1'"),
    "descriptors in words": allow("send_type='signal' min_fds='two'"),
    "no number of descriptors": allow("send_type='signal' min_fds=''"),
    "own and own_prefix": allow("own='a.b' own_prefix='a.b'"),
    "own and a message": allow("own='a.b' send_type='signal'"),
    "own and descriptors": allow("own='a.b' max_fds='3'"),
    "own and eavesdrop": allow("own='a.b' eavesdrop='true'"),
    "own with a log": allow("own='a.b' log='true'"),
    "user and group": allow("user='root' group='root'"),
    "send and receive": allow("send_type='signal' receive_type='signal'"),
    "a member without an interface": allow("send_member='M'"),
    "a member of a path": allow("send_member='M' send_path='/'"),
    "a received member without an interface": allow("receive_member='M'"),
    "an error and a member": allow("send_error='a.b' send_member='M' send_path='/'"),
    "an error and an interface": allow("receive_error='a.b' receive_interface='a.b'"),
    "an error of a signal": allow("send_error='a.b' send_type='signal'"),
    "two destinations": allow("send_destination='a.b' send_destination_prefix='a.b'"),
    "a broadcast to somebody": allow("send_broadcast='true' send_destination='a.b'"),
    "a broadcast to a namespace": allow("send_broadcast='true' send_destination_prefix='a.b'"),
    "a broadcast to all": allow("send_broadcast='true' send_destination='*'"),
    "a unicast to somebody": allow("send_broadcast='false' send_destination='a.b'"),
    "a bad type": allow("send_type='call'"),
    "any type": allow("receive_type='*'"),
    "a bad flag": allow("send_requested_reply='yes'"),
    "a bad flag on a received one": allow("receive_requested_reply='yes' receive_type='error'"),
    "a bad eavesdrop": allow("eavesdrop='1'"),
    "a bad broadcast": allow("send_broadcast='maybe'"),
    "an empty name": allow("own=''"),
    "an empty interface": allow("send_interface=''"),
    "something like a name": allow("own='not a name'"),
    "a limit without a name": "<limit>5</limit>",
    "a limit without a value": "<limit name='auth_timeout'/>",
    "an unknown limit": "<limit name='max_bees'>5</limit>",
    "a negative limit": "<limit name='reply_timeout'>-1</limit>",
    "a limit of nothing": "<limit name='reply_timeout'>0</limit>",
    "a limit in words": "<limit name='reply_timeout'>soon</limit>",
    "a limit with blanks": "<limit name='auth_timeout'> 5000\n</limit>",
    "a limit beyond int": "<limit name='max_names_per_connection'>2147483648</limit>",
    "a limit up to int": "<limit name='max_names_per_connection'>2147483647</limit>",
    "bytes beyond int": "<limit name='max_incoming_bytes'>2147483648</limit>",
    "selinux": "<selinux><associate own='a.b' context='c'/></selinux>",
    "half an association": "<selinux><associate own='a.b'/></selinux>",
    "text in selinux": "<selinux>text</selinux>",
    "apparmor": "<apparmor mode='disabled'/>",
    "apparmor in no mode": "<apparmor mode='strict'/>",
    "apparmor without a mode": "<apparmor/>",
}
STRICTER = {"a limit with junk": "<limit name='auth_timeout'>5000 ms</limit>"}
"""What dbus-daemon takes and we don't."""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def conf(content: str) -> Path:
        path = tmp_path / "it.conf"
        path.write_text(f"<busconfig><listen>unix:tmpdir={tmp_path}</listen>{content}</busconfig>")
        return path

    return conf


def reference_takes(path: Path) -> bool:
    """Whether dbus-daemon starts with this configuration."""
    command = ["dbus-daemon", f"--config-file={path}", "--nofork", "--nopidfile", "--print-address"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as daemon:
        assert daemon.stdout is not None
        select.select([daemon.stdout], [], [], 20)
        started = bool(daemon.stdout.readline())
        daemon.kill()
    return started


def we_take(path: Path) -> bool:
    try:
        configfiles.load(str(path))
    except ConfigError as error:
        assert str(path) in str(error)
        return False
    return True


@pytest.mark.parametrize("what", SNIPPETS)
def test_what_the_reference_takes_we_take(what: str, write: Callable[[str], Path]) -> None:
    path = write(SNIPPETS[what])
    assert we_take(path) == reference_takes(path)


@pytest.mark.parametrize("what", STRICTER)
def test_where_we_are_stricter_the_reference_is_not(what: str, write: Callable[[str], Path]) -> None:
    path = write(STRICTER[what])
    assert reference_takes(path)
    assert not we_take(path)


@pytest.mark.parametrize("kind", ["session", "system"])
def test_the_usual_files_of_this_machine_load(kind: str) -> None:
    config = configfiles.standard(kind)
    assert config.type == kind
    assert config.files[0] == f"/usr/share/dbus-1/{kind}.conf"
    assert str(SHARED / "dbus-1" / f"{kind}.d") in config.files
    client = config.policy.of_client(1234, [1234])
    assert client.sends_all == (kind == "session")
