"""Lines for people: one per cause and second, and a count of what was left out."""

from __future__ import annotations

from bus1.log import LINES, LINES_OF_ONE, PAUSE, Fields, Log


def lines_of() -> tuple[Log, list[tuple[str, Fields]]]:
    written: list[tuple[str, Fields]] = []
    return Log("it", lambda text, fields: written.append((text, fields))), written


def test_equal_lines_are_counted() -> None:
    log, written = lines_of()
    log.note("a")
    log.note("a", 2)
    log.note("b", fields=(("KEY", "value"),))
    log.write(0.0)
    assert written == [("a (3 times)", ()), ("b", (("KEY", "value"),))]


def test_of_one_cause_the_first_line_is_written_with_a_count_of_all() -> None:
    log, written = lines_of()
    for number in range(5):
        log.note(f"refused {number}", cause="the same")
    log.write(0.0)
    assert written == [("refused 0 (5 times)", ())]


def test_what_comes_soon_after_waits() -> None:
    log, written = lines_of()
    log.note("a")
    assert log.deadline == 0.0
    log.write(1.0)
    log.note("b")
    assert log.deadline == 1.0 + PAUSE
    log.write(1.0 + PAUSE / 2)
    assert [text for text, _ in written] == ["a"]
    log.write(1.0 + PAUSE)
    assert [text for text, _ in written] == ["a", "b"]
    assert log.deadline is None


def test_too_many_causes_are_counted_together() -> None:
    log, written = lines_of()
    for number in range(LINES + 3):
        log.note(f"line {number}", 2)
    log.write(0.0)
    assert len(written) == LINES + 1
    assert written[-1][0].startswith("6 more things")
    log.note("next")
    log.write(PAUSE)
    assert written[-1][0] == "next"


def test_one_of_many_cannot_fill_the_log_alone() -> None:
    log, written = lines_of()
    for number in range(LINES * 2):
        log.note(f"refused {number} to :1.1", 2, about=":1.1")
    log.note("refused to :1.2", about=":1.2")
    log.note("of nobody")
    log.write(0.0)
    texts = [text for text, _ in written]
    assert texts[:LINES_OF_ONE] == [f"refused {n} to :1.1 (2 times)" for n in range(LINES_OF_ONE)]
    n_more = (LINES * 2 - LINES_OF_ONE) * 2
    more = f"more about :1.1 was left out ({n_more} times)"
    assert texts[LINES_OF_ONE:] == [more, "refused to :1.2", "of nobody"]
    for _ in range(2):
        log.note("refused 0 to :1.1", about=":1.1")
    log.write(PAUSE)
    assert written[-1][0] == "refused 0 to :1.1 (2 times)", "the next second is another one"
