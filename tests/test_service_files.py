"""Service files: what one says, and which one of many directories counts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from bus1_bridge.busconfig import ServiceDir
from bus1_bridge.servicefiles import FILE_BYTES_MAX, ServiceFiles
from bus1_bridge.services import Service, ServiceError, parse, split_command
from hypothesis import given
from hypothesis import strategies as st

VECTORS = Path("/usr/lib/dbus-1.0/installed-tests/dbus/data")
"""Debian's package dbus-tests."""
PLAIN = b"[D-BUS Service]\nName=com.example.A\nExec=/bin/true\n"


# ---- one file ------------------------------------------------------------------------------------


def test_a_file_says_who_starts_what_as_whom() -> None:
    text = (
        "# a comment\n\n[Other]\nName=other\n[D-BUS Service]\nName = com.example.A \nExec=\t/bin/prog a\\tb\n"
        "User=root\nSystemdService=a.service\nAssumedAppArmorLabel=label\nUnknown=\\s\nName[de]=x\n"
        "Name=com.example.Second\n[More]\nUser=nobody\n"
    )
    expected = Service("com.example.A", "/bin/prog a\tb", "FILE", "root", "a.service", "label")
    assert parse(text.encode(), "FILE") == expected


def test_what_is_left_out_is_not_there() -> None:
    assert parse(PLAIN, "F") == Service("com.example.A", "/bin/true", "F", None, None, None)
    assert parse(PLAIN.replace(b"\n", b"\r\n"), "F").name == "com.example.A"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"Name=a.b\n" + PLAIN, PLAIN + b"rubbish\n", PLAIN + b"=value\n", PLAIN + b"A=\\x\n",
        PLAIN + b"A=\\\n", PLAIN + b"[]\n", PLAIN + b"[A\n", PLAIN + b"[A]B]\n", PLAIN + b"A=\0\n",
        PLAIN.replace(b"Name", b"name"), PLAIN.replace(b"Exec", b"exec"), PLAIN.replace(b"/bin/true", b""),
        PLAIN.replace(b"com.example.A", b":1.5"), PLAIN.replace(b"com.example.A", b"com"),
        PLAIN.replace(b"com.example.A", b"org.freedesktop.DBus"), PLAIN.replace(b"Service", b"service"),
    ],
)
def test_a_file_that_makes_no_sense_says_why(content: bytes) -> None:
    with pytest.raises(ServiceError, match=r"."):
        parse(content, "F")


@given(st.binary(max_size=200) | st.text("[]=\\#\n DBUServicNameExct.-", max_size=200).map(str.encode))
def test_no_file_breaks_the_parser(content: bytes) -> None:
    try:
        service = parse(content, "F")
    except ServiceError:
        return
    assert service.name
    assert service.command


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/bin/a b  c\td", ("/bin/a", "b", "c", "d")), ("a 'b c' \"d e\"", ("a", "b c", "d e")),
        ("a'b'\"c\"d", ("abcd",)), (r"a\ b \\ \"", ("a b", "\\", '"')), ("a '' \"\"", ("a", "", "")),
        (r"""'a\b' "a\b" "a\"b" "a\$b" "a\\b" """, (r"a\b", r"a\b", 'a"b', "a$b", r"a\b")),
        ("a # b", ("a",)), ("a#b", ("a#b",)), ("$HOME `x` ~ * >y;", ("$HOME", "`x`", "~", "*", ">y;")),
    ],
)
def test_a_command_is_split_as_a_shell_splits_it_and_nothing_is_expanded(
    text: str, words: tuple[str, ...]
) -> None:
    assert split_command(text) == words


@pytest.mark.parametrize("text", ["", " ", "# a", "'a", '"a', "a\\", '"a\\"', "'a\\'b'"])
def test_a_command_that_cannot_be_split_says_why(text: str) -> None:
    with pytest.raises(ServiceError, match=r"."):
        split_command(text)


@pytest.mark.parametrize(
    "folder", ["valid-service-files", "valid-service-files-system", "systemd-activation"]
)
def test_the_valid_files_of_the_reference_are_valid(folder: str) -> None:
    files = sorted((VECTORS / folder).glob("*.service"))
    assert files
    for path in files:
        service = parse(path.read_bytes(), str(path))
        assert f"{service.name}.service" == path.name
        if "Fail" in service.name:
            with pytest.raises(ServiceError):
                split_command(service.command)
        else:
            assert split_command(service.command)[0].startswith("/")


def test_the_invalid_files_of_the_reference_are_of_no_use() -> None:
    files = sorted((VECTORS / "invalid-service-files-system").glob("*.service"))
    assert files
    for path in files:
        try:
            assert parse(path.read_bytes(), str(path)).user is None, "a helper starts nothing without user"
        except ServiceError:
            continue


# ---- many files ----------------------------------------------------------------------------------


class Files:
    """Two directories, and what was complained of."""

    def __init__(self, folder: Path) -> None:
        self.first, self.second = folder / "first", folder / "second"
        self.complaints: list[str] = []
        directories = [ServiceDir(str(path)) for path in (self.first, self.second)]
        self.strict = ServiceDir(str(folder / "strict"), is_strict=True)
        self.files = ServiceFiles([self.strict, *directories, directories[0]], self.complaints.append)

    def write(self, folder: Path, name: str, command: str, file: str = "") -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / (file or f"{name}.service")
        path.write_text(f"[D-BUS Service]\nName={name}\nExec={command}\n")
        return path

    def command(self, name: str = "com.example.A") -> str | None:
        service = self.files.find(name)
        return None if service is None else service.command


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_first_directory_counts_and_others_of_the_name_are_passed_over_in_silence(files: Files) -> None:
    files.write(files.second, "com.example.A", "second")
    assert files.command() == "second"
    first = files.write(files.first, "com.example.A", "first")
    assert files.files.names() == ("com.example.A",)
    assert files.command() == "first"
    first.unlink()
    assert files.command() == "second"
    assert files.complaints == []


def test_directories_may_come_and_go(files: Files) -> None:
    assert files.command() is None
    assert files.files.names() == ()
    path = files.write(files.first, "com.example.A", "a")
    assert files.command() == "a"
    path.unlink()
    files.first.rmdir()
    assert files.command() is None
    files.write(files.first, "com.example.A", "b")
    assert files.command() == "b"


def test_a_directory_that_is_linked_from_elsewhere_counts(files: Files, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    files.write(elsewhere, "com.example.A", "a")
    assert files.command() is None
    files.first.symlink_to(elsewhere)
    assert files.command() == "a"


def test_a_strict_directory_takes_only_files_that_are_called_as_their_name(files: Files) -> None:
    strict = Path(files.strict.path)
    files.write(strict, "com.example.A", "a", file="b.service")
    files.write(files.first, "com.example.C", "c", file="d.service")
    files.write(files.first, "com.example.E", "e", file="com.example.E.desktop")
    assert [files.command(f"com.example.{name}") for name in "ACE"] == [None, "c", None]
    assert [('"com.example.A.service"' in line, "not loading" in line) for line in files.complaints] == [
        (True, True)
    ]


def test_who_has_a_helper_is_told_of_a_file_that_it_will_not_find(files: Files) -> None:
    files.files.configure([ServiceDir(str(files.first))], has_helper=True)
    path = files.write(files.first, "com.example.C", "c", file="d.service")
    assert files.command("com.example.C") == "c"
    assert [line for line in files.complaints if f'"{path}"' in line and '"com.example.C.service"' in line]


def test_a_file_that_was_bad_counts_once_it_is_good_and_is_complained_of_once(files: Files) -> None:
    path = files.write(files.first, "com.example.A", "")
    os.utime(files.first, (1e9, 1e9))
    assert [files.command(), files.command(), files.files.names()] == [None, None, ()]
    assert len(files.complaints) == 1
    assert str(path) in files.complaints[0]
    path.write_text("[D-BUS Service]\nName=com.example.A\nExec=good\n")
    assert files.command() == "good"


def test_a_file_that_names_another_now_is_found_under_that(files: Files) -> None:
    path = files.write(files.first, "com.example.A", "a")
    assert files.command() == "a"
    path.write_text("[D-BUS Service]\nName=com.example.Other\nExec=b\n")
    assert files.command() is None
    assert files.command("com.example.Other") == "b"


def test_what_is_no_file_of_a_sensible_size_is_passed_over_and_nobody_waits_for_it(files: Files) -> None:
    files.first.mkdir()
    os.mkfifo(files.first / "pipe.service")
    (files.first / "folder.service").mkdir()
    (files.first / "null.service").symlink_to(os.devnull)
    (files.first / "dangling.service").symlink_to("nowhere")
    (files.first / "round.service").symlink_to("round.service")
    (files.first / "large.service").write_bytes(PLAIN + b"#" * FILE_BYTES_MAX)
    files.write(files.first, "com.example.B", "b")
    assert files.files.names() == ("com.example.B",)
    assert files.files.names() == ("com.example.B",)
    assert sorted(Path(line.split()[2]).stem for line in files.complaints) == [
        "folder", "large", "null", "pipe", "round"
    ]


def test_an_unchanged_file_is_not_read_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(files.first, "com.example.A", "a")
    os.utime(files.first, (1e9, 1e9))
    assert files.command() == "a"
    monkeypatch.setattr("bus1_bridge.servicefiles.parse", lambda data, file: 1 / 0)
    assert files.command() == "a"
    assert files.command("com.example.B") is None


def test_a_shortage_of_descriptors_makes_nothing_unknown_and_passes(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(files.first, "com.example.A", "a")
    os.utime(files.first, (1e9, 1e9))
    assert files.command() == "a"
    real, full = os.open, OSError(errno.EMFILE, "full")

    def fails(*_: object) -> int:
        raise full

    files.write(files.second, "com.example.B", "b")
    os.utime(files.second, (1e9, 1e9))
    monkeypatch.setattr(os, "open", fails)
    assert files.command() == "a"
    assert files.command("com.example.B") is None
    monkeypatch.setattr(os, "open", real)
    assert files.command("com.example.B") == "b"
    assert files.complaints == []


def test_a_file_is_shown_whatever_its_name_is_made_of(files: Files) -> None:
    files.write(files.first, "com.example.A", "a", file=os.fsdecode(b"\xff.service"))
    service = files.files.find("com.example.A")
    assert service is not None
    assert service.file.endswith("\\xff.service")


def test_other_directories_can_be_looked_at(files: Files) -> None:
    files.write(files.first, "com.example.A", "a")
    files.write(files.second, "com.example.B", "b")
    assert files.files.names() == ("com.example.A", "com.example.B")
    files.files.configure([ServiceDir(str(files.second))])
    assert files.files.names() == ("com.example.B",)
    assert files.command() is None
