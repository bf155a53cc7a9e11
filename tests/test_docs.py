"""The documentation: links lead somewhere, commands exist, reference pages follow the code."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import pytest
import typer
import yaml
from markdown_it import MarkdownIt
from project_factory import ROOT, copy_project, environment, run

import pipeline
from pipeline.cli import app
from pipeline.config import load_params

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "datasets/*/README.md", "benchmarks/README.md")
    for path in ROOT.glob(pattern)
)
GROUP = typer.main.get_command(app)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
DATASETS = yaml.safe_load((ROOT / "params.yaml").read_text())["datasets"]
RUN = "<!-- run -->\n"
# Words of the pages that stand for what a reader has, and what the tests have in their place
GIVEN = {
    "FOLDER": "datasets/rsna/sample/stage_2_train_images",
    "model.safetensors": "out/model/model.safetensors",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """Addresses of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_within_the_project_leads_somewhere(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            wrong.append(target)
    assert wrong == []


def test_every_page_stands_in_the_contents():
    index = (ROOT / "docs/index.md").read_text()
    listed = re.findall(r"^(?:\w+ <)?(\w[\w-]*/[\w/-]+)>?$", index, re.MULTILINE)
    pages = {name(p).removeprefix("docs/").removesuffix(".md") for p in ROOT.glob("docs/*/*.md")}
    assert sorted(listed) == sorted(pages | {"reference/api/modules"})


def test_reference_pages_are_what_the_code_says():
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def blocks(page: Path) -> Iterator[str]:
    """Blocks of a page that may hold commands."""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "code_block" or (token.type == "fence" and token.info in ("", "bash")):
            yield token.content


def commands(block: str) -> Iterator[list[str]]:
    """The simple commands of a block, without their variables."""
    for line in block.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line.replace("&&", " ; ").replace(" | ", " ; "), comments=True)
        except ValueError:  # no shell: a drawing, a formula
            continue
        simple: list[str] = []
        for word in [*words, ";"]:
            if word == ";" or word.endswith(";"):
                simple += [word[:-1]] if len(word) > 1 else []
                while simple and re.match(r"\w+=", simple[0]):
                    simple = simple[1:]
                if simple:
                    yield simple
                simple = []
            else:
                simple.append(word)


def check_changes(words: list[str]) -> None:
    """The `-S KEY=VALUE` of a command are accepted; `0,1,2` are values of a queue."""
    changes = []
    for flag, change in pairwise(words):
        key, _, value = change.removeprefix("+").partition("=")  # DVC's sign for a new key
        placeholder = "my_" in key or re.search(r"\b[A-Z]+\b|\$", value)
        if flag in ("-S", "--set") and not placeholder:
            values = value.split(",") if "--queue" in words else [value]
            changes.append([f"{key}={one}" for one in values])
    for one in product(*changes):
        load_params(ROOT / "params.yaml", one)


def check_descry(words: list[str]) -> None:
    command = GROUP.commands[words[0]]
    context = type(GROUP).context_class(GROUP, info_name="descry")
    command.make_context(words[0], [w for w in words[1:] if w != "..."], parent=context)
    check_changes(words)


def check_dvc(words: list[str]) -> None:
    known = {f"{s}@{d}" for s, d in product(STAGES, [*DATASETS, "my_cells", "DATASET"])}
    for word in words:
        if "@" in word:
            assert word in known, word
    check_changes(words)


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(word in targets for word in words if "=" not in word), words


def check_python(words: list[str]) -> None:
    script = words[0] if words else "-"
    assert script.startswith(("-", "$")) or (ROOT / script).is_file(), script


CHECKS = {"descry": check_descry, "dvc": check_dvc, "make": check_make, "python": check_python}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_one(page):
    for block in blocks(page):
        for first, *words in commands(block):
            if first in CHECKS:
                try:
                    CHECKS[first](words)
                except Exception as error:
                    pytest.fail(f"{' '.join([first, *words])}: {error!r}")


def test_commands_that_are_none_are_found():
    for block in ("descry fly", "descry train rsna -S model.pool_layer=2", "dvc repro train@rsna2"):
        [[first, *words]] = commands(block)
        with pytest.raises(Exception, match=r"."):
            CHECKS[first](words)


def test_the_version_is_said_alike():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == pipeline.__version__ == cited["version"]
    assert project["license"] == cited["license"]
    assert f"## {pipeline.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_says_its_licence():
    program = "import runpy; print(len(runpy.run_path('tools/release.py')['licences']()))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


@pytest.mark.slow
def test_marked_blocks_run(tmp_path):
    params = copy_project(tmp_path, ("ccellbio", "rsna"), epochs=1)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    seen = 0
    for page in ("docs/start/first_steps.md", "docs/how-to/clinical.md"):
        for part in (ROOT / page).read_text().split(RUN)[1:]:
            block = next(t.content for t in MarkdownIt().parse(part) if t.type == "code_block")
            for word, given in GIVEN.items():
                block = re.sub(rf"(?<![\w/]){re.escape(word)}\b", given, block)
            script = 'descry() { python -m pipeline "$@"; }\nset -e\n' + block
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=tmp_path,
                env=environment(tmp_path),
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, block + done.stdout + done.stderr
            seen += 1
    assert seen == 3
    assert (tmp_path / "out/found/report.html").is_file()
    assert (tmp_path / "RESULTS/detections.csv").is_file()


@pytest.mark.slow
def test_the_study_of_the_docs_runs(tmp_path):
    optuna = pytest.importorskip("optuna", reason="needs pip install optuna")
    params = copy_project(tmp_path, ("ccellbio",), epochs=1)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    run(tmp_path, sys.executable, "-m", "pipeline", "convert", "ccellbio")
    page = (ROOT / "docs/how-to/experiment.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = program.replace("n_trials=20", "n_trials=1")
    program = program.replace('["descry"', f'["{sys.executable}", "-m", "pipeline"')
    for _ in range(2):  # the second call goes on
        said = run(tmp_path, sys.executable, "-c", program)
    study = optuna.load_study(study_name="ccellbio", storage=f"sqlite:///{tmp_path / 'tune.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert all(1e-4 <= trial.params["train.lr"] <= 1e-2 for trial in study.trials)
    assert "model.pool_layers" in said


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="needs pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "-b", "html"]
    command += ["docs", str(tmp_path / "html")]
    done = subprocess.run(command, cwd=ROOT, env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SavedModel" in (tmp_path / "html/reference/api/pipeline.models.html").read_text()
