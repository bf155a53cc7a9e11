"""The code of a stage is said once, by the imports, and dvc.yaml and the identity follow them."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from pipeline import dependencies
from pipeline.dependencies import STAGES, code_digest, file_of, imported_by, listed, rewritten

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_lists_the_code_of_a_stage(stage):
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    code = [path for path in deps if path.startswith("pipeline/")]
    assert code == listed(stage), "run: python -m pipeline.dependencies"
    files = {file for path in code for file in [ROOT / path, *(ROOT / path).rglob("*.py")]}
    assert {file_of(module) for module in imported_by(*STAGES[stage])} <= files


def test_the_lists_are_rewritten_and_nothing_else():
    text = (ROOT / "dvc.yaml").read_text()
    assert rewritten(text) == text
    spoilt = text.replace("      - pipeline/atomic.py\n", "").replace("/errors.py", "/gone.py")
    assert spoilt != text and rewritten(spoilt) == text


def test_dvc_sees_one_pipeline():
    """The templates of `descry init` are links to these very files, for DVC a second pipeline."""
    with Repo(ROOT) as repo:
        assert {stage.path_in_repo for stage in repo.index.stages} == {"dvc.yaml"}


REALLY = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*[name for name in sys.modules if name.startswith("pipeline.")])
"""


@pytest.mark.parametrize("stage", ["convert", "train", "evaluate", "predict", "report"])
def test_a_stage_imports_nothing_that_is_not_seen(stage):
    begins = STAGES[stage]
    command = [sys.executable, "-c", REALLY, begins[0]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    unseen = set(done.stdout.split()) - imported_by(*begins) - {"pipeline.api"}  # for users
    said = {name for name in unseen if name.startswith("pipeline.convert.datasets.")}
    assert unseen - said == set() and (stage != "convert" or not said)


TYPES = "if TYPE_CHECKING:\n    import toy.d\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `toy`: a imports b, and c inside a function; d only for the type checker."""
    files = {
        "__init__": "import toy.e",
        "p/__init__": "import toy.f\ndef f():\n    import toy.g\n",
        "p/q": "",
        "a": "import toy.b\nimport toy.p.q\ndef f():\n    from toy import c\n" + TYPES,
        "b": '"""What b does."""\nX = 1  # a remark\n',
        **dict.fromkeys("cdefg", ""),
    }
    root = tmp_path / "toy"
    (root / "p").mkdir(parents=True)
    for name, text in files.items():
        (root / f"{name}.py").write_text(text)
    monkeypatch.setattr(dependencies, "ROOT", root)
    return root


def test_imports_are_followed(package):
    of_p = {"toy.p", "toy.p.q", "toy.f"}
    assert imported_by("toy.a") == {"toy.a", "toy.b", "toy.c", *of_p}
    assert imported_by("toy.p.*") == {*of_p, "toy.g"}


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('"""Other words."""\n\nX = 1\n', True),
        ('"""What b does."""\nX = 2  # a remark\n', False),
        ("X = 1\nX\n", False),
    ],
)
def test_words_do_not_count_for_the_digest_and_code_does(package, text, same):
    before = code_digest("toy.a")
    (package / "b.py").write_text(text)
    assert (code_digest("toy.a") == before) is same


def test_code_that_a_training_does_not_import_does_not_touch_its_identity():
    gallery = {name for name in imported_by(*STAGES["evaluate"]) if "evaluate." in name}
    assert gallery - imported_by(*STAGES["train"])
