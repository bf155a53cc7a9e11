"""One finished experiment on one dataset, and which cell of the table it belongs to."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.report.run import read_json

ARMS = ("baseline", "wide", "ACP", "CAT", "ACP+CAT")


@dataclass(frozen=True, slots=True)
class Record:
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


def from_folders(folders: Sequence[Path], datasets: Sequence[str]) -> Iterator[Record]:
    """Records of folders of runs."""
    for folder in folders:
        for dataset in datasets:
            if (folder / dataset / "evaluate/details.json").is_file():
                yield _of_folder(folder, dataset)


def _of_folder(folder: Path, dataset: str) -> Record:
    evaluate = folder / dataset / "evaluate"
    about = read_json(folder / dataset / "train/about.json", f"run `descry train {dataset}`")
    return Record(
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
    training = dict(about["training"])
    optimisation = training.pop("optimisation")
    kept = {name: about[name] for name in ("image_size", "epochs")}
    return {**about["detector"], **about["intensity"], **training, **optimisation, **kept}
