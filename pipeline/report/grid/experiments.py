"""Records of DVC experiments.

An experiment that reruns one dataset's chain still carries the metrics of all others, and one that
only trains still carries the metrics of the model before. What a metric was made with is therefore
read from the ``dvc.lock`` of its revision, not from the ``params.yaml`` beside it, and a metric
whose model is not the one that the lock's training wrote is left out.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import DescryError
from pipeline.report.grid.records import Record

log = logging.getLogger(__name__)
# (parameters as a tree, dataset) -> (detector, seed, settings)
Reader = Callable[[Mapping[str, Any], Any], tuple[dict[str, Any], int, dict[str, Any]]]


def from_dvc(repo: Path, read: Reader) -> Iterator[Record]:
    """Records of the workspace, of all commits and of all their experiments.

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


def _of_revision(repo: Path, rev: str, name: str, read: Reader) -> Iterator[Record]:
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
        if not _belongs_together(files, stages[stage], f"runs/{dataset}/train/model.pt"):
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
) -> Record:
    detector, seed, settings = read(nested(trained["params"]["params.yaml"]), dataset)
    coco = {dep["path"]: dep.get("md5", "") for dep in trained.get("deps", ())}
    data = coco.get(f"datasets/{dataset}/coco", "")
    return Record(name, dataset, detector, seed, settings, data, figures)


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
