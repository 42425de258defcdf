"""Configuration files: how they are put together, what they say, and how wrong they may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bus1_bridge import configfiles, configxml
from bus1_bridge.busconfig import LIMITS, ConfigError, ServiceDir
from bus1_bridge.configxml import DEPTH_MAX, FILE_MAX, read
from bus1_bridge.standardfiles import CONTENTS
from bus1_bridge.switch.limits import MESSAGE_SIZE_CEILING, BusLimits
from hypothesis import given
from hypothesis import strategies as st
from policy_texts import Texts, config_of


def error_of(content: str, **files: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(content, **files)
    return str(caught.value)


def owned(config: object) -> list[str]:
    """The names of the default rules, in order."""
    return [rule.name for rule in config.contexts.default]  # type: ignore[attr-defined]


def conf(content: str) -> str:
    return f"<busconfig>{content}</busconfig>"


def allow(name: str) -> str:
    return f'<policy context="default"><allow own="{name}"/></policy>'


# ---- one file ------------------------------------------------------------------------------------


def test_every_element_says_something() -> None:
    config = config_of(
        "<type>session</type><type>system</type><user>messagebus</user><fork/><keep_umask/><syslog/>"
        "<allow_anonymous/><pidfile> /run/pid </pidfile><listen>unix:path=/a</listen><listen>tcp:</listen>"
        "<auth>EXTERNAL</auth><auth>ANONYMOUS</auth><servicehelper>/helper</servicehelper>"
        "<servicedir>services</servicedir><standard_session_servicedirs/><standard_system_servicedirs/>"
        "<servicedir>/last</servicedir>"
        '<selinux><associate own="a.b" context="c"/></selinux><apparmor mode="required"/>'
    )
    assert (config.type, config.user, config.pidfile) == ("system", "messagebus", "/run/pid")
    assert (config.forks, config.keeps_umask, config.syslog, config.allows_anonymous) == (True,) * 4
    assert config.listen == ("unix:path=/a", "tcp:")
    assert config.auth == ("EXTERNAL", "ANONYMOUS")
    assert config.servicehelper == "/helper"
    assert config.service_dirs == tuple(map(ServiceDir, (
        "/etc/services", "/standard/session", "/standard/system", "/last",
    )))
    assert config.selinux == {"a.b": "c"}
    assert config.apparmor == "required"
    assert config.files == ("/etc/bus.conf",)
    assert not config.warnings


def test_an_empty_configuration_says_nothing() -> None:
    config = config_of("")
    assert (config.type, config.user, config.pidfile, config.servicehelper) == (None,) * 4
    assert not (config.forks or config.keeps_umask or config.syslog or config.allows_anonymous)
    assert (config.listen, config.auth, config.service_dirs) == ((), (), ())
    assert config.limit_values == LIMITS
    assert config.apparmor == "enabled"


def test_limits_are_milliseconds_in_the_file_and_seconds_in_the_switch() -> None:
    config = config_of(
        '<limit name="auth_timeout">1500</limit><limit name="max_message_size">1000000000</limit>'
        '<limit name="max_names_per_connection">7</limit>'
    )
    limits = config.limits
    assert limits.auth_timeout == 1.5
    assert limits.max_message_size == MESSAGE_SIZE_CEILING
    assert limits.max_names_per_connection == 7
    assert limits.max_replies_per_connection == 128
    assert limits.reply_timeout is None
    assert config.limits is limits


def test_the_usual_session_file_has_the_limits_that_are_the_defaults_here() -> None:
    config = read("/etc/bus.conf", Texts({}), CONTENTS["session"])
    assert config.limits == BusLimits()


@pytest.mark.parametrize("content, line, text", [
    ("\n\n<bees/>", 3, "Element <bees> not allowed inside <busconfig>"),
    ("\n<fork now='yes'/>", 2, 'Attribute "now" is invalid on <fork>'),
    ("\n<user>\n\n</user>", 4, "<user> was expected to have content"),
    ("\n<policy context='default'>\n <allow/></policy>", 3, "Element <allow> must have one or more"),
    ("<limit\n name='max_bees'>5</limit>", 2, 'no limit called "max_bees"'),
    ("\nbees", 2, "No text content expected inside XML element busconfig"),
    ("\n<user>x</user", 2, ""),
])
def test_an_error_says_where_and_what(content: str, line: int, text: str) -> None:
    error = error_of(content)
    assert error.startswith(f"/etc/bus.conf:{line}: ")
    assert text in error


def test_names_that_nobody_has_are_warnings_with_their_place() -> None:
    config = config_of(
        "\n<policy user='ghost'><allow own='*'/></policy>\n<policy group='ghosts'/>"
        "\n<policy context='default'><deny user='ghost'/><allow group='ghosts'/></policy>"
    )
    assert [warning.split(": ", 1) for warning in config.warnings] == [
        ["/etc/bus.conf:2", 'Unknown username "ghost" in message bus configuration file'],
        ["/etc/bus.conf:3", 'Unknown group "ghosts" in message bus configuration file'],
        ["/etc/bus.conf:4", 'Unknown username "ghost" on element <deny>'],
        ["/etc/bus.conf:4", 'Unknown group "ghosts" on element <allow>'],
    ]
    assert not config.contexts.by_user
    assert not config.contexts.by_group


def test_a_rule_keeps_its_text_and_its_place() -> None:
    config = config_of(
        "\n<policy context='default'>\n<allow send_path='/a&amp;\"' send_type='error'/></policy>"
    )
    (rule,) = config.contexts.default
    assert str(rule) == '<allow send_path="/a&amp;&quot;" send_type="error"/> (/etc/bus.conf:3)'


# ---- hostile files -------------------------------------------------------------------------------


def with_entities(declarations: str, content: str = "") -> bytes:
    return f"<!DOCTYPE busconfig [{declarations}]><busconfig>{content}</busconfig>".encode()


def test_an_entity_of_the_file_stands_for_its_text() -> None:
    content = with_entities('<!ENTITY a "ro"><!ENTITY b "&a;ot">', "<user>&b;</user>")
    assert read("/c", Texts({}), content).user == "root"


def test_entities_do_not_multiply() -> None:
    laughs = '<!ENTITY l0 "lol">' + "".join(
        f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10)
    )
    with pytest.raises(ConfigError, match=r"/c:1: Entity .* stands for more than"):
        read("/c", Texts({}), with_entities(laughs, "<user>&l9;</user>"))


@pytest.mark.parametrize("declaration", [
    '<!ENTITY e SYSTEM "/etc/passwd">', '<!ENTITY % p "x">', '<!ENTITY e PUBLIC "x" "http://example.org/">',
])
def test_an_entity_that_stands_elsewhere_is_refused(declaration: str) -> None:
    sources = Texts({"/etc/passwd": "secret"})
    with pytest.raises(ConfigError, match="is none that stands in this file"):
        read("/c", sources, with_entities(declaration, "<user>&e;</user>"))
    assert not sources.opened


def test_an_entity_that_nobody_knows_is_an_error_even_if_a_doctype_could_know_it() -> None:
    content = b'<!DOCTYPE busconfig PUBLIC "x" "y"><busconfig><user>a&b;</user></busconfig>'
    with pytest.raises(ConfigError, match='Unknown entity "b"'):
        read("/c", Texts({}), content)


def test_a_file_that_is_too_large_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger than"):
        read("/c", Texts({}), b"<busconfig>" + b" " * FILE_MAX)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="/c:1: "):
        read("/c", Texts({}), b"<busconfig>\xff</busconfig>")


@given(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8), st.sampled_from(["session", "system"]))
def test_whatever_a_file_holds_it_is_read_or_refused_in_words(at: int, noise: bytes, kind: str) -> None:
    content = CONTENTS[kind]
    at %= len(content)
    try:
        read("/c", Texts({}), content[:at] + noise + content[at + len(noise) :]).policy.of_client(0, [0])
    except ConfigError as error:
        assert str(error).startswith("/c:")


# ---- files in files ------------------------------------------------------------------------------


def test_an_included_file_stands_where_it_is_included() -> None:
    config = config_of(
        allow("a") + "<include>more.conf</include>" + allow("d") + "<include>/etc/bus.d/x</include>",
        **{
            "/etc/more.conf": conf(allow("b") + "<include>bus.d/x</include>"),
            "/etc/bus.d/x": conf(allow("c")),
        },
    )
    assert owned(config) == ["a", "b", "c", "d", "c"]
    assert config.files == ("/etc/bus.conf", "/etc/more.conf", "/etc/bus.d/x", "/etc/bus.d/x")
    assert [rule.file for rule in config.contexts.default][1:3] == ["/etc/more.conf", "/etc/bus.d/x"]


def test_what_an_included_file_says_holds_but_for_the_system_log() -> None:
    config = config_of(
        '<user>one</user><limit name="auth_timeout">1</limit><limit name="reply_timeout">9</limit>'
        "<include>x</include>",
        **{"/etc/x": conf(
            "<user>two</user><fork/><syslog/><listen>tcp:</listen><auth>EXTERNAL</auth><pidfile>/p</pidfile>"
            '<limit name="auth_timeout">2</limit><apparmor mode="disabled"/>'
            '<policy user="alice"><allow own="x"/></policy><policy group="wheel"><allow own="x"/></policy>'
            '<policy at_console="true"><allow own="x"/></policy><policy at_console="false"><allow own="x"/>'
            '</policy><policy context="mandatory"><allow own="x"/></policy>'
        )},
    )
    assert (config.user, config.forks, config.syslog, config.pidfile) == ("two", True, False, "/p")
    assert (config.listen, config.auth, config.apparmor) == (("tcp:",), ("EXTERNAL",), "disabled")
    assert config.limit_values["auth_timeout"] == 2
    assert config.limit_values["reply_timeout"] == 9
    contexts = config.contexts
    assert len(contexts.by_user[1000]) == len(contexts.by_group[10]) == 1
    assert len(contexts.console) == len(contexts.no_console) == len(contexts.mandatory) == 1


def test_an_error_in_an_included_file_has_its_place_there() -> None:
    error = error_of("<include>x</include>", **{"/etc/x": conf("\n<bees/>")})
    assert error.startswith("/etc/x:2: ")


def test_a_missing_file_is_an_error_at_the_place_that_wants_it() -> None:
    assert error_of("\n<include>x</include>") == (
        '/etc/bus.conf:2: Failed to open "/etc/x": No such file or directory'
    )
    config = config_of('<include ignore_missing="yes">x</include>')
    assert config.files == ("/etc/bus.conf", "/etc/x")


def test_a_file_that_includes_itself_is_an_error() -> None:
    assert "Circular inclusion of file '/etc/bus.conf'" in error_of("<include>bus.conf</include>")
    two = {"/etc/x": conf("<include>y</include>"), "/etc/y": conf("<include>x</include>")}
    assert error_of("<include>x</include>", **two) == "/etc/y:1: Circular inclusion of file '/etc/x'"


def test_files_are_not_included_for_ever() -> None:
    deep = {f"/etc/{n}": conf(f"<include>{n + 1}</include>") for n in range(100)}
    assert f"{DEPTH_MAX} deep" in error_of("<include>0</include>", **deep)


def test_files_do_not_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configxml, "FILES_MAX", 100)
    twice = {f"/etc/{n}": conf(f"<include>{n + 1}</include>" * 2) for n in range(20)} | {"/etc/20": conf("")}
    assert "More than 100 files" in error_of("<include>0</include>", **twice)


def test_selinux_files_are_for_machines_with_it() -> None:
    config = config_of('<include if_selinux_enabled="yes" selinux_root_relative="yes">contexts</include>')
    assert config.files == ("/etc/bus.conf",)
    assert "SELinux policy root" in error_of('<include selinux_root_relative="yes">contexts</include>')


def test_a_directory_is_read_in_the_order_of_names_and_only_its_conf_files() -> None:
    config = config_of("<includedir>d</includedir>", **{
        f"/etc/d/{name}": conf(allow(name)) for name in ("b.conf", "a.conf", "c.txt", "C.conf", "d.conf~")
    })
    assert owned(config) == ["C.conf", "a.conf", "b.conf"]
    assert "/etc/d" in config.files


def test_a_broken_file_of_a_directory_is_skipped_whole_and_reported() -> None:
    config = config_of("\n<includedir>d</includedir>", **{
        "/etc/d/1.conf": conf(allow("a")),
        "/etc/d/2.conf": conf(allow("b") + "<user>ghost</user>\n<bees/>"),
        "/etc/d/3.conf": conf(allow("c")),
    })
    assert owned(config) == ["a", "c"]
    assert config.user is None
    (warning,) = config.warnings
    assert warning.startswith("/etc/bus.conf:2: Encountered error '/etc/d/2.conf:2: Element <bees>")
    assert config_of("<includedir>nowhere</includedir>").files == ("/etc/bus.conf", "/etc/nowhere")


# ---- this machine --------------------------------------------------------------------------------


def test_a_configuration_that_listens_nowhere_is_refused_unless_an_address_is_given(tmp_path: Path) -> None:
    path = tmp_path / "bus.conf"
    path.write_text(conf(""))
    with pytest.raises(ConfigError, match="one or more <listen> elements"):
        configfiles.load(str(path))
    assert configfiles.load(str(path), needs_listen=False).listen == ()


def test_a_file_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'Failed to open ".*/bus\.conf": No such file or directory'):
        configfiles.load(str(tmp_path / "bus.conf"))


def test_a_relative_path_is_relative_to_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bus.conf").write_text(conf("<listen>tcp:</listen><servicedir>s</servicedir>"))
    config = configfiles.load("bus.conf")
    assert config.service_dirs == (ServiceDir(f"{tmp_path}/s"),)


def test_session_services_are_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (
        ("XDG_RUNTIME_DIR", "/run/me"), ("XDG_DATA_HOME", "/home/me/data"),
        ("XDG_DATA_DIRS", "/one:relative::/two/:/one:/usr/share"),
    ):
        monkeypatch.setenv(key, value)
    found = tuple(configfiles.Machine().service_dirs("session"))
    assert found == (
        ServiceDir("/run/me/dbus-1/services", is_strict=True, is_watched=False),
        *map(ServiceDir, (
            "/home/me/data/dbus-1/services", "/one/dbus-1/services", "/two/dbus-1/services",
            "/usr/share/dbus-1/services",
        )),
    )


def test_without_an_environment_session_services_are_in_the_usual_places(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert [folder.path for folder in configfiles.Machine().service_dirs("session")] == [
        "/home/me/.local/share/dbus-1/services", "/usr/local/share/dbus-1/services",
        "/usr/share/dbus-1/services",
    ]


def test_users_and_groups_have_numbers() -> None:
    machine = configfiles.Machine()
    assert machine.number_of("user", "root") == machine.number_of("group", "root") == 0
    assert machine.number_of("user", "0") == machine.number_of("group", "0") == 0
    for nobody in ("no such user", "4294967200", "99999999999999999999", "-1", "٣"):
        assert machine.number_of("user", nobody) is None
        assert machine.number_of("group", nobody) is None


@pytest.mark.parametrize("kind", ["session", "system"])
def test_without_installed_files_the_same_is_built_in(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = configfiles.standard(kind)
    monkeypatch.setattr(configfiles, "_STANDARD", str(tmp_path / "{}.conf"))
    built_in = configfiles.standard(kind)
    for key in (
        "type", "user", "listen", "auth", "forks", "keeps_umask", "syslog", "pidfile", "servicehelper",
        "service_dirs", "limit_values",
    ):
        assert getattr(built_in, key) == getattr(installed, key)
    ours = [rule.text for rule in built_in.contexts.default]
    theirs = [
        rule.text for rule in installed.contexts.default
        if rule.file == f"/usr/share/dbus-1/{kind}.conf" and "Containers1" not in rule.text
    ]
    assert ours[: len(theirs)] == theirs


def test_the_console_is_looked_at_only_if_a_rule_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = tmp_path / "console"
    console.mkdir()
    (console / "root").touch()
    (console / "no such user").touch()
    monkeypatch.setattr(configfiles, "_CONSOLE", str(console))
    path = tmp_path / "bus.conf"
    for content, uids in (("", frozenset()), ("<policy at_console='true'><allow own='a'/></policy>", {0})):
        path.write_text(conf(f"<listen>tcp:</listen>{content}"))
        assert configfiles.load(str(path)).console_uids == uids


def test_a_file_without_permission_is_an_error_even_if_it_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "bus.conf"
    path.write_text(conf(f'<listen>tcp:</listen><include ignore_missing="yes">{tmp_path}</include>'))
    with pytest.raises(ConfigError, match=f'{path}:1: Failed to open "{tmp_path}": {os.strerror(21)}'):
        configfiles.load(str(path))
