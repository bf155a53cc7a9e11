"""The faults of tools/mutation_check.py can still be put into the code."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("mutation_check", ROOT / "tools/mutation_check.py")
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


@pytest.mark.parametrize("fault", check.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_stands_for_one_place_and_names_tests_that_exist(fault):
    assert (ROOT / "pipeline" / fault.file).read_text().count(fault.text) == 1
    assert all((ROOT / "tests" / f"{name}.py").exists() for name in fault.tests.split())
