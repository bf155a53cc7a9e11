"""Finished experiments, of folders or of DVC, and which cell of the table each belongs to.

A DVC experiment that reruns one dataset's chain still carries the metrics of all others, and one
that only trains still carries the metrics of the model before. What a metric was made with is
therefore read from the ``dvc.lock`` of its revision, not from the ``params.yaml`` beside it, and a
metric whose model is not the one that the lock's training wrote is left out.
"""

import json
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import DescryError
from pipeline.report.run import read_json

log = logging.getLogger(__name__)
ARMS = ("baseline", "wide", "ACP", "CAT", "ACP+CAT")
# (parameters as a tree, dataset) -> (detector, seed, settings)
Reader = Callable[[Mapping[str, Any], Any], tuple[dict[str, Any], int, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A trained and evaluated model.

    Attributes
    ----------
    source : str
        Where it was found: a folder or the name of an experiment.
    dataset : str
    detector : mapping
        At least backbone, pool_layers, concepts, width, copies.
    seed : int
    settings : mapping
        Everything else that is known to decide the training, by the names of params.yaml.
    data : str
        Hash of what it was trained on.
    figures : mapping
        AP, AP50, ... ; None where there was no ground truth.
    evaluate : Path, optional
        The evaluation folder, if its predictions are at hand.
    """

    source: str
    dataset: str
    detector: Mapping[str, Any]
    seed: int
    settings: Mapping[str, Any]
    data: str
    figures: Mapping[str, Any]
    evaluate: Path | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """What the table is about; experiments that differ in anything else are left out.

    Attributes
    ----------
    pool_layers, concepts : int
        Depth of ACP and number of CAT's concepts in the arms that have them.
    widths : mapping
        Backbone -> width of its arm "wide"; backbones that cannot be widened are missing.
    settings : mapping
        Dataset -> settings, by the names of params.yaml.
    now : mapping
        Model parameters and seed that params.yaml has now; commands only state others.
    changes : tuple of str
        Of other parameters against params.yaml, which commands have to repeat.
    """

    pool_layers: int
    concepts: int
    widths: Mapping[str, int]
    settings: Mapping[str, Mapping[str, Any]]
    now: Mapping[str, Any]
    changes: tuple[str, ...] = ()

    def wanted(self, backbone: str, arm: str) -> dict[str, Any]:
        """The model parameters of a cell."""
        return {
            "backbone": backbone,
            "pool_layers": self.pool_layers if "ACP" in arm else 0,
            "concepts": self.concepts if "CAT" in arm else 0,
            "width": self.widths[backbone] if arm == "wide" else 0,
            "copies": False,
        }

    def possible(self, backbone: str, arm: str) -> bool:
        """Whether a backbone has an arm."""
        return arm != "wide" or backbone in self.widths

    def arm_of(self, detector: Mapping[str, Any]) -> str | None:
        """The arm that a detector is, if it is one of the table's."""
        backbone = detector["backbone"]
        for arm in ARMS:
            if self.possible(backbone, arm):
                wanted = self.wanted(backbone, arm)
                if all(detector[key] == value for key, value in wanted.items()):
                    return arm
        return None

    def command(self, dataset: str, backbone: str, arm: str, seed: int) -> str:
        """The command that fills a cell."""
        values = {f"model.{key}": value for key, value in self.wanted(backbone, arm).items()}
        values["train.seed"] = seed
        settings = [f"{k}={str(v).lower()}" for k, v in values.items() if self.now[k] != v]
        options = [part for text in (*settings, *self.changes) for part in ("-S", text)]
        return shlex.join(["dvc", "exp", "run", *options, f"evaluate@{dataset}"])


def from_folders(folders: Sequence[Path], datasets: Sequence[str]) -> Iterator[Experiment]:
    """Experiments of folders of runs."""
    for folder in folders:
        for dataset in datasets:
            if (folder / dataset / "evaluate/details.json").is_file():
                yield _of_folder(folder, dataset)


def _of_folder(folder: Path, dataset: str) -> Experiment:
    evaluate = folder / dataset / "evaluate"
    about = read_json(folder / dataset / "train/about.json", f"run `descry train {dataset}`")
    return Experiment(
        source=folder.as_posix(),
        dataset=dataset,
        detector=about["detector"],
        seed=about["seed"],
        settings=_settings(about),
        data=about["training_annotations_sha256"],
        figures=read_json(evaluate / "details.json", "")["figures"],
        evaluate=evaluate,
    )


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a model file says of its making, by the names of params.yaml."""
    kept = {name: about[name] for name in ("image_size", "epochs")}
    return {**about["detector"], **about["intensity"], **about["training"], **kept}


def from_dvc(repo: Path, read: Reader) -> Iterator[Experiment]:
    """Experiments of the workspace, of all commits and of all their experiments.

    Parameters
    ----------
    repo : Path
        The project's folder.
    read : callable
        Makes sense of a tree of parameters; raises DescryError for those of an older form.

    Raises
    ------
    DescryError
        When the folder is no DVC project.
    """
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        shown = dvc.api.exp_show(str(repo), num=-1)
    except DvcException as error:
        raise DescryError(
            f"{repo}: its experiments cannot be read ({error}); "
            "give folders of runs instead: `descry report --grid FOLDER ...`"
        ) from error
    for row in shown:
        name = row["Experiment"] or row["rev"]
        yield from _of_revision(repo, row["rev"], name, read)


def _of_revision(repo: Path, rev: str, name: str, read: Reader) -> Iterator[Experiment]:
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(str(repo), rev=None if rev == "workspace" else rev)
    if not files.exists("dvc.lock"):
        return
    stages = yaml.safe_load(files.read_text("dvc.lock")).get("stages", {})
    for stage in stages:
        kind, _, dataset = stage.partition("@")
        metrics = f"runs/metrics/{dataset}.json"
        if kind != "evaluate" or f"train@{dataset}" not in stages or not files.exists(metrics):
            continue
        if not _belongs_together(files, stages[stage], f"runs/{dataset}/train/model.safetensors"):
            log.info("%s: %s was not evaluated after its last training; left out", name, dataset)
            continue
        figures = json.loads(files.read_text(metrics))[dataset]
        try:
            yield _record(name, dataset, stages[f"train@{dataset}"], figures, read)
        except DescryError as error:
            log.info("%s: parameters of another version of descry; left out: %s", name, error)


def _belongs_together(files: Any, evaluated: Mapping[str, Any], model: str) -> bool:
    """Whether the model that was evaluated is the one that the training of this revision wrote."""
    used = {dep["path"]: dep.get("md5") for dep in evaluated.get("deps", ())}
    try:
        written = files.info(model).get("dvc_info", {}).get("md5")
    except FileNotFoundError:  # the training's folder is in no cache here
        return False
    return written is not None and used.get(model) == written


def _record(
    name: str,
    dataset: str,
    trained: Mapping[str, Any],
    figures: Mapping[str, Any],
    read: Reader,
) -> Experiment:
    detector, seed, settings = read(nested(trained["params"]["params.yaml"]), dataset)
    coco = {dep["path"]: dep.get("md5", "") for dep in trained.get("deps", ())}
    data = coco.get(f"datasets/{dataset}/coco", "")
    return Experiment(name, dataset, detector, seed, settings, data, figures)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Groups and dotted names, as a lock has them, as one tree."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree
