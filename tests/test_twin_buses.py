"""The two bodies of the D-Bus bus are one: the same script on both, byte by byte the same.

Without a native body both are the one in Python: then this shows that what is compared depends on nothing
else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from twin_pair import Difference, Pair
from twin_script import Script, script_of, shortened, text_of
from twin_scripts import everyday, governed, inquiries, scripts, visits

CORPUS = Path(__file__).parent / "corpus" / "twins"
try:
    from bus1 import _native  # noqa: F401
except ImportError:
    BODIES = ("python", "python")
else:
    BODIES = ("python", "native")
LIMITS = "".join(f'<limit name="{name}">{value}</limit>' for name, value in {
    "max_outgoing_bytes": 1_000_000, "max_message_size": 2_000_000, "max_match_rules_per_connection": 3,
    "max_names_per_connection": 3, "max_replies_per_connection": 3, "max_outgoing_unix_fds": 4,
    "max_message_unix_fds": 2, "max_completed_connections": 5,
}.items())
POLICY = """<policy context="default">
  <allow user="*"/> <allow own="*"/> <deny own="t.N2.a"/>
  <allow send_type="method_call"/> <allow send_type="signal"/>
  <deny send_interface="t.J.K"/>
  <deny send_destination="t.N0" send_path="/x/y"/>
  <allow send_requested_reply="true" send_type="method_return"/>
  <allow send_requested_reply="true" send_type="error"/>
  <allow receive_type="method_call"/> <allow receive_type="signal"/> <allow receive_type="error"/>
  <allow receive_type="method_return"/>
  <deny receive_member="S" receive_path="/x/y"/>
</policy>"""
"""What a system bus may have: replies that were asked for, most of the rest."""
MORE = 50 if settings().max_examples > 1000 else 1
"""How many times more scripts the deep profile plays."""
PATIENT = pytest.mark.timeout(60 if MORE == 1 else 1800)


def plenty(n: int) -> settings:
    """The profile's settings for so many scripts."""
    phases = [Phase.explicit, Phase.generate]  # what is found is made shorter by the pair
    return settings(max_examples=n * MORE, suppress_health_check=list(HealthCheck), phases=phases)


@pytest.fixture(scope="module")
def buses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two buses on which everything is allowed."""
    pair = Pair(tmp_path_factory.mktemp("open"), BODIES)
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two buses with small limits."""
    pair = Pair(tmp_path_factory.mktemp("limited"), BODIES, (LIMITS, LIMITS))
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two buses with a policy."""
    pair = Pair(tmp_path_factory.mktemp("strict"), BODIES, policy=POLICY)
    yield pair
    pair.close()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.script")), ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", ["buses", "limited", "strict"])
def test_scripts_of_the_corpus_go_the_same_way(
    request: pytest.FixtureRequest, kind: str, path: Path
) -> None:
    pair: Pair = request.getfixturevalue(kind)
    pair.compare(script_of(path.read_text()))


@PATIENT
@plenty(60)
@given(scripts())
def test_whatever_clients_do_comes_out_the_same(buses: Pair, script: Script) -> None:
    buses.compare(script)


@PATIENT
@plenty(40)
@given(everyday())
def test_everyday_traffic_comes_out_the_same(buses: Pair, script: Script) -> None:
    buses.compare(script)


@PATIENT
@plenty(30)
@given(scripts(sizes=(0, 10, 5000, 300_000, 1_200_000)))
def test_limits_are_reached_in_the_same_place(limited: Pair, script: Script) -> None:
    limited.compare(script)


@PATIENT
@plenty(30)
@given(scripts(sizes=(0, 10, 5000, 300_000)))
def test_policy_allows_the_same(strict: Pair, script: Script) -> None:
    strict.compare(script)


@PATIENT
@plenty(40)
@given(visits())
@pytest.mark.parametrize("kind", ["buses", "limited", "strict"])
def test_who_comes_and_goes_is_answered_the_same(
    request: pytest.FixtureRequest, kind: str, script: Script
) -> None:
    pair: Pair = request.getfixturevalue(kind)
    pair.compare(script)


@PATIENT
@plenty(40)
@given(inquiries())
@pytest.mark.parametrize("kind", ["buses", "limited", "strict"])
def test_whatever_the_bus_is_asked_it_answers_the_same(
    request: pytest.FixtureRequest, kind: str, script: Script
) -> None:
    pair: Pair = request.getfixturevalue(kind)
    pair.compare(script)


@PATIENT
@plenty(40)
@given(governed())
def test_whatever_policy_there_is_allows_the_same(buses: Pair, script: Script) -> None:
    buses.compare(script)


# ---- the harness -------------------------------------------------------------------------------------------


def test_a_difference_is_found_and_told_as_the_shortest_script_that_shows_it(tmp_path: Path) -> None:
    pair = Pair(tmp_path, ("python", "python"), ("", '<limit name="max_names_per_connection">2</limit>'))
    script = script_of((CORPUS / "first_steps.script").read_text())[:7]
    more = script_of("""send("a", ask("RequestName", "su", ["t.More", 0]), signal(), call(to="@b"))""")
    with pytest.raises(Difference, match="LimitsExceeded") as found:
        pair.compare([*script, *more, *script[4:]])
    shortest = str(found.value).partition("\n\n")[2]
    assert len(script_of(shortest)) == 3 and "t.More" in shortest and "t.N0" in shortest
    with pytest.raises(Difference, match="LimitsExceeded"):
        pair.play(script_of(shortest))
    pair.close()


@pytest.mark.parametrize(
    ("contents", "line"),
    [
        (("", '<limit name="max_message_size">1000</limit>'), 'send("a", call(to="@b", size=1000))'),
        (
            ("", '<limit name="max_message_unix_fds">1</limit>'),
            'send("a", call(to="@b", fds=[0, 1]), signal(), keep=9)',
        ),
    ],
)
def test_who_is_disconnected_counts(tmp_path: Path, contents: tuple[str, str], line: str) -> None:
    pair = Pair(tmp_path, ("python", "python"), contents)
    with pytest.raises(Difference, match="the end"):
        pair.play(script_of(f'connect("a")\nconnect("b")\n{line}'))
    pair.close()


def test_what_stays_in_core_counts(tmp_path: Path) -> None:
    pair = Pair(tmp_path, ("python", "python"), ("", '<limit name="max_outgoing_bytes">7777777</limit>'))
    with pytest.raises(Difference, match="in the state of Core: /"):
        pair.play([])
    pair.close()


@given(scripts())
def test_a_script_is_read_as_it_is_written(script: Script) -> None:
    assert script_of(text_of(script)) == script


def test_what_is_not_needed_is_left_out() -> None:
    script = script_of("".join(f'send("a", call(serial={i}), signal())\n' for i in range(9)))
    asked = []

    def is_enough(shorter: Script) -> bool:
        asked.append(shorter)
        text = text_of(shorter)
        return "serial=3" in text and "serial=7" in text

    assert text_of(shortened(script, is_enough)) == "send('a', call(serial=3))\nsend('a', call(serial=7))\n"
    assert len(asked) <= 60
