"""A small copy of the project under git and DVC, on the samples, for tests that run it whole."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RADIOGRAPHS = "datasets/rsna/sample/stage_2_train_images"


def environment(folder: Path) -> dict[str, str]:
    """What a command needs to run the code of a copy, and git to commit."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {
        f"GIT_{who}_{what}": "test@test"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    return os.environ | names | {"PATH": path, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}


def run(folder: Path, *command: str) -> str:
    """Run a command of the project in a folder; fail with its output."""
    env = environment(folder)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def copy_project(folder: Path, datasets: Sequence[str], epochs: int) -> dict[str, Any]:
    """Put code, pipeline and the samples of some datasets into a folder; return small parameters.

    They are what params.yaml says, at 64 px and with a prediction by the model of rsna; the caller
    writes them.
    """
    for name in ("pipeline", ".dvc", "dvc.yaml", ".dvcignore", ".gitignore"):
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "tmp", "cache")
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder)
    for name in datasets:
        shutil.copytree(ROOT / "datasets" / name / "sample", folder / "datasets" / name / "sample")
        shutil.copy(ROOT / "datasets" / name / "README.md", folder / "datasets" / name)
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["datasets"] = list(datasets)
    params["recipes"]["sample"] |= {
        "image_size": 64,
        "epochs": dict.fromkeys(params["recipes"]["sample"]["epochs"], epochs),
    }
    params["predict"] = {"model": "runs/rsna/train/model.safetensors", "source": RADIOGRAPHS}
    return params


def commit(folder: Path, message: str) -> None:
    """Commit everything; the first time, make the repository."""
    if not (folder / ".git").exists():
        run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", message)
