"""Every clause has its tests, and docs/conformance.md says which."""

from __future__ import annotations

import ast

import clauses


def test_a_test_cites_what_its_name_and_its_docstring_name() -> None:
    source = '''
def test_t_30_a_number_that_is_not_open() -> None:
    """H-43, H-44 … 46: A-API-7, UTF-8, T-30, XP-3."""
def test_a_xf_4_again() -> None: ...
def test_a_4_of_spades() -> None: ...
def test_plain() -> None:
    """Nothing."""
'''
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    found = [clauses.citations(function) for function in functions]
    assert found == [["T-30", "H-43", "H-44", "A-API-7"], ["A-XF-4"], ["A-4"], []]


def test_every_clause_has_a_test_or_a_reason() -> None:
    excused, cited = clauses.deviations(), clauses.cited()
    needed = [clause for clause in clauses.table() if clause not in excused or "instead" in excused[clause]]
    assert [clause for clause in needed if clause not in cited] == []


def test_no_test_cites_an_unknown_clause() -> None:
    known = clauses.table()
    assert {clause: tests for clause, tests in clauses.cited().items() if clause not in known} == {}


def test_no_test_cites_what_there_is_nothing_to_hold_of() -> None:
    empty = {clause for clause, entry in clauses.deviations().items() if "instead" not in entry}
    assert {clause: tests for clause, tests in clauses.cited().items() if clause in empty} == {}


def test_what_deviates_is_a_clause_and_tells_why() -> None:
    known = clauses.table()
    for clause, entry in clauses.deviations().items():
        assert clause in known and entry["reason"], clause
        assert set(entry) <= {"reason", "instead"}, clause
    texts = [*known.values(), *(text for entry in clauses.deviations().values() for text in entry.values())]
    assert [text for text in texts if not 0 < len(text) <= 110 or "|" in text] == []


def test_the_table_has_every_group_in_order() -> None:
    groups = [clause[0] for clause in clauses.table()]
    assert list(dict.fromkeys(groups)) == list(clauses.GROUPS)


def test_the_page_is_what_the_generator_makes() -> None:
    assert clauses.PAGE.read_text() == clauses.page(), f"out of date: run {clauses.COMMAND}"
