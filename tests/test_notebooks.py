"""The notebooks run as they are, and are committed clean, small and with outputs."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 1_500_000  # bytes, all together
# A home or temporary folder, any absolute path, or the memory address of an object
OF_A_MACHINE = re.compile(
    r"(/home/|/root/|/tmp/|/var/|/Users/|(?<![\w<.])/[A-Za-z][\w.-]*/|C:\\\\|at 0x[0-9a-f]{6})"
)


def test_there_are_four_and_they_are_small():
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]
    assert sum(path.stat().st_size for path in NOTEBOOKS) < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_clean_and_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.outputs for cell in code[1:]) and not any(c.metadata for c in notebook.cells)
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error"
        text = output.get("text", "") + "".join(
            content for kind, content in output.get("data", {}).items() if kind.startswith("text")
        )
        assert not OF_A_MACHINE.search(text), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_notebooks_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]*\.ipynb)\)", path.read_text()):
        assert (FOLDER / target).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_the_top(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    executed = module.execute(path)
    committed = nbformat.read(path, as_version=4)
    assert [cell.source for cell in executed.cells] == [cell.source for cell in committed.cells]
    kinds = [[o.output_type for o in c.get("outputs", ())] for c in executed.cells]
    assert kinds == [[o.output_type for o in c.get("outputs", ())] for c in committed.cells]
