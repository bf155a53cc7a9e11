"""Write a project, or add a dataset to one."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

import pipeline
from pipeline.atomic import replacing
from pipeline.config import load_params, validate
from pipeline.errors import DescryError
from pipeline.project.templates import (
    VERSION_FILE,
    first_params,
    first_stages,
    template,
    with_dataset,
    with_plots,
)

PARAMS, STAGES = "params.yaml", "dvc.yaml"
NAME = re.compile(r"[a-z][a-z0-9_]*")
CARD = """# {name}

What the images are, from where they come, under which terms. This card stands on the dataset's
page.
"""


@dataclass(frozen=True, slots=True)
class NewDataset:
    """A dataset of one's own.

    Attributes
    ----------
    name : str
    layout : str
        See `pipeline.project.look`; ``auto`` where there is nothing to look at yet.
    augment : str
        Augmentation recipe.
    data : Path or None
        Folder of its files, which ``raw`` will be a link to; None: an empty one, to be filled.
    """

    name: str
    layout: str = "auto"
    augment: str = "none"
    data: Path | None = None


def create_project(folder: Path, dataset: NewDataset) -> None:
    """Write params.yaml, dvc.yaml and what belongs to them into a folder that has neither.

    Raises
    ------
    DescryError
        When the folder holds a project already, or a parameter is not allowed.
    """
    for name in (PARAMS, STAGES, VERSION_FILE):
        if (folder / name).exists():
            raise DescryError(
                f"{folder / name}: exists already. In a project, --data FOLDER adds a dataset; "
                "else choose an empty folder"
            )
    params = first_params(dataset.name, _entry(dataset), dataset.augment)
    _check(params, dataset.name)
    _make_place(folder, dataset)
    _start_dvc(folder)
    if not (folder / ".gitignore").exists():
        _write(folder / ".gitignore", template("gitignore"))
    _write(folder / VERSION_FILE, f"descry=={pipeline.__version__}\n")
    _write(folder / STAGES, first_stages(dataset.name))
    _write(folder / PARAMS, params)


def add_dataset(folder: Path, dataset: NewDataset) -> None:
    """Enter one more dataset into a project's params.yaml and dvc.yaml.

    Raises
    ------
    DescryError
        When the name is taken, the project's own parameters are wrong or a new one is.
    """
    params, stages = folder / PARAMS, folder / STAGES
    if dataset.name in load_params(params).known:
        raise DescryError(f"{params}: has a dataset {dataset.name}; choose another with --name")
    text = with_dataset(params.read_text("utf-8"), dataset.name, _entry(dataset), dataset.augment)
    _check(text, dataset.name)
    _make_place(folder, dataset)
    if stages.is_file():
        _write(stages, with_plots(stages.read_text("utf-8"), dataset.name))
    _write(params, text)


def _entry(dataset: NewDataset) -> dict[str, object]:
    """The dataset's group in `convert`."""
    return {"layout": dataset.layout, "classes": []}


def _check(params: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise DescryError(f"--name {name}: must be of small letters, digits and _")
    validate(yaml.safe_load(params), PARAMS)


def _make_place(folder: Path, dataset: NewDataset) -> None:
    """The dataset's folder: its card, and raw/ or a link of that name to its files."""
    place = folder / "datasets" / dataset.name
    if place.exists():
        raise DescryError(f"{place}: exists already; choose another name with --name")
    try:
        place.mkdir(parents=True)
        if dataset.data is None:
            (place / "raw").mkdir()
        else:
            (place / "raw").symlink_to(dataset.data.resolve(), target_is_directory=True)
    except OSError as error:
        raise DescryError(f"{place}: cannot be made: {error.strerror}") from None
    _write(place / "README.md", CARD.format(name=dataset.name))


def _write(path: Path, text: str) -> None:
    with replacing(path) as stream:
        stream.write(text)


def _start_dvc(folder: Path) -> None:
    """What `dvc init` writes, with the project's plots; in a git repository or without any."""
    if (folder / ".dvc").exists():
        return
    for name in ("gitignore", "plots/counts.json", "plots/curves.json"):
        _write(folder / ".dvc" / name.replace("gitignore", ".gitignore"), template(f"dvc/{name}"))
    alone = "" if _in_git(folder) else "    no_scm = true\n"
    _write(folder / ".dvc/config", template("dvc/config").rstrip("\n") + f"\n{alone}")
    _write(folder / ".dvcignore", template("dvcignore"))


def _in_git(folder: Path) -> bool:
    """Whether the folder lies in a git repository."""
    return any((above / ".git").exists() for above in folder.resolve().joinpath("x").parents)
