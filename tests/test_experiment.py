"""A wrong ``-S`` is refused with what is allowed, and leaves the checkout as it was."""

import subprocess

import pytest
import yaml
from project_factory import commit, copy_project, environment, run

from pipeline.cli.experiment import PARAMS, _restore, set_params


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("dvc exp run -S a=1 --set-param b.c=2", ["a=1", "b.c=2"]),
        ("dvc exp run -Sa=1 --set-param=b=2 train@rsna", ["a=1", "b=2"]),
        ("dvc exp run --queue", []),
    ],
)
def test_the_values_of_a_command_line(words, found):
    assert list(set_params(words.split())) == found


def test_keys_get_their_values_back():
    tree = {"model": {"pool": 9, "new": 1}, "seed": 4}
    _restore(tree, {"model": {"pool": 2}, "seed": 0}, ["model.pool", "model.new"])
    assert tree == {"model": {"pool": 2}, "seed": 4}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project under git and DVC, of which nothing has run yet."""
    folder = tmp_path_factory.mktemp("project")
    params = copy_project(folder, ["rsna"], epochs=1)
    text = yaml.safe_dump(params, sort_keys=False)
    (folder / PARAMS).write_text(f"# a comment\n{text}")
    commit(folder, "start")
    return folder


def refused(project, *command):
    """What a command says that must fail."""
    env = environment(project)
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
    assert done.returncode, done.stdout
    return done.stdout + done.stderr


WRONG = [
    ("model.pool_layers=99", "model.pool_layers = 99 is not allowed: must be an integer, at least"),
    ("recipe=papr", "recipe = 'papr' is not allowed: must be one of sample, paper"),
    ("datasets=[foo]", "datasets = 'foo' is not allowed: must be one of"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "words"), WRONG)
def test_through_dvc(project, change, words):
    said = refused(project, "dvc", "exp", "run", "-S", change)
    assert words in said and "params.yaml is as it was before -S" in said
    assert "Traceback" not in said and said.count("Running stage") == 1
    assert run(project, "git", "status", "--short") == ""
    assert run(project, "git", "branch", "--show-current") == "main\n"


@pytest.mark.slow
def test_what_was_changed_by_hand_stays(project):
    before = (project / PARAMS).read_text()
    by_hand = before.replace("cache_gib: 50.0", "cache_gib: 7.0")
    assert by_hand != before
    (project / PARAMS).write_text(by_hand)
    refused(project, "dvc", "exp", "run", "-S", "model.pool_layers=99", "-S", "train.seed=3")
    assert yaml.safe_load((project / PARAMS).read_text()) == yaml.safe_load(by_hand)
    (project / PARAMS).write_text(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"), [*WRONG, ("model.pol_layers=3", "Did you mean model.pool_layers?")]
)
def test_before_dvc(project, change, words):
    said = refused(project, "python", "-m", "pipeline", "exp", "run", "-S", change)
    assert words in said and "Running stage" not in said
    assert run(project, "git", "status", "--short") == ""
