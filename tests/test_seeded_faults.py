"""Citations mean it: a Core with one fault fails the tests that cite the clauses concerned.

Each fault is put into a copy of the package, which the tests then import in place of the real one. Tests for
long runs are left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import clauses
import faults_a
import faults_b
import pytest
from faults import Fault

FAULTS = [*faults_a.FAULTS, *faults_b.FAULTS]
CLAUSES = tuple(dict.fromkeys(clause for fault in FAULTS for clause in fault.clauses))
TESTS_PASSED, TESTS_FAILED = 0, 1
"""pytest's exit codes; with others nothing has been tried."""

PLUGIN = """
import bus1, pathlib, pytest

def pytest_configure():
    if not pathlib.Path(bus1.__file__).is_relative_to(pathlib.Path(__file__).parent):
        raise pytest.UsageError(f"the copy is not what is imported: {bus1.__file__}")
"""


def killers(fault: Fault) -> list[str]:
    """The tests that should notice, those of single clauses first; none for long runs or both bodies."""
    tests, left_out = clauses.cited(), clauses.long()
    found = dict.fromkeys(test for clause in fault.clauses for test in tests.get(clause, []))
    alone = (test for test in found if test not in left_out and "/test_twin_" not in test)
    return sorted(alone, key=lambda test: "/test_c" not in test)


def outcome(fault: Fault, directory: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """pytest's run of ``killers`` on a copy of the package with the fault in it."""
    package = clauses.ROOT / "bus1"
    shutil.copytree(package, directory / "bus1", ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "the_copy_is_imported.py").write_text(PLUGIN)
    broken = directory / fault.file
    broken.write_text(broken.read_text().replace(fault.old, fault.new))
    plugins = ["-p", "no:cacheprovider", "-p", "the_copy_is_imported"]
    changes = {"PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1", "BUS1_ACCEL": "python"}
    tests = [str(clauses.ROOT / test) for test in killers(fault)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", *plugins, *tests], cwd=directory,
        env=os.environ | changes,
        capture_output=True, text=True, timeout=timeout,
    )


@pytest.mark.deep
@pytest.mark.timeout(320)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_noticed_by_tests_that_cite_its_clauses(fault: Fault, tmp_path: Path) -> None:
    run = outcome(fault, tmp_path)
    assert run.returncode == TESTS_FAILED, run.stdout + run.stderr


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_without_a_fault_the_same_tests_pass_on_a_copy(tmp_path: Path) -> None:
    same = faults_a.FAULTS[0].old
    run = outcome(Fault("none", CLAUSES, faults_a.FAULTS[0].file, same, same), tmp_path, 1700)
    assert run.returncode == TESTS_PASSED, run.stdout + run.stderr


def test_a_fault_has_one_place_and_tests_that_should_notice() -> None:
    sources = {fault.file: (clauses.ROOT / fault.file).read_text() for fault in FAULTS}
    assert [fault.name for fault in FAULTS if sources[fault.file].count(fault.old) != 1] == []
    assert [fault.name for fault in FAULTS if fault.new == fault.old or not killers(fault)] == []
    assert {clause for fault in FAULTS for clause in fault.clauses} <= clauses.table().keys()


def test_every_group_of_clauses_has_its_faults() -> None:
    assert len(FAULTS) >= 60 and len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {clause[0] for fault in FAULTS for clause in fault.clauses} >= set("PHNTRLSQGE")
