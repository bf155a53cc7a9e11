"""The table dataset x backbone x arm of all experiments."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.config import DatasetName, Model, Params, validate
from pipeline.models.controls import matched_width
from pipeline.report.compare import paired_p
from pipeline.report.grid.cells import build
from pipeline.report.grid.experiments import Experiment, Reference, from_dvc, from_folders
from pipeline.report.grid.formats import write_grid
from pipeline.report.run import warnings_of
from pipeline.stages import DATASETS, RUNS
from pipeline.stages.train import spec_of


def grid(
    params: Params, written: Params, changes: Sequence[str], runs: Sequence[Path], out: Path | None
) -> str:
    """Write the table dataset x backbone x arm of all experiments; return it as Markdown.

    Of folders of runs if there are any, else of the experiments that DVC knows. `params` are the
    `written` ones with the `changes`, which the commands for empty cells have to repeat.
    """

    def read(
        tree: Mapping[str, Any], name: DatasetName
    ) -> tuple[dict[str, Any], int, dict[str, Any]]:
        # The stage does not depend on it; but it is what makes a dataset of one's own known.
        old = validate({**tree, "convert": {name: {}}}, f"dvc.lock, train@{name}")
        return asdict(old.model), old.train.seed, _settings(old, name)

    def paired(a: Experiment, b: Experiment) -> float | None:
        truth = DATASETS / a.dataset / "coco/annotations/test.json"
        return paired_p(a.evaluate, b.evaluate, truth)

    found = from_folders(runs, params.datasets) if runs else from_dvc(Path.cwd(), read)
    built = build(found, _reference(params, written, changes), paired)
    said = warnings_of(DATASETS, params.datasets, sample=params.data.source == "sample")
    return write_grid(built, out or RUNS / "grid", said)


def _reference(params: Params, written: Params, changes: Sequence[str]) -> Reference:
    """What the grid is about: the parameters, but for arm and seed."""
    model, default = params.model, Model()
    depth, concepts = model.pool_layers or default.pool_layers, model.concepts or default.concepts
    arm: dict[str, Any] = {
        "backbone": "vit",
        "pool_layers": depth,
        "concepts": concepts,
        "width": 0,
    }
    full = replace(params, model=replace(model, **arm, copies=False))
    now = {f"model.{key}": getattr(written.model, key) for key in (*arm, "copies")}
    now["train.seed"] = written.train.seed
    return Reference(
        pool_layers=depth,
        concepts=concepts,
        widths={"vit": matched_width(spec_of(full, num_classes=1))},
        settings={name: _settings(params, name) for name in params.datasets},
        now=now,
        changes=tuple(c for c in changes if c.partition("=")[0] not in (*now, "datasets")),
    )


def _settings(params: Params, name: DatasetName) -> dict[str, Any]:
    """Everything that decides a training beside its arm and its seed."""
    kept = asdict(params.scale)
    kept |= kept.pop("model") | asdict(params.model) | asdict(params.train)
    kept |= asdict(params.intensity) | {"augment": params.augment[name]}
    kept["epochs"], kept["init"] = kept["epochs"][name], Path(kept["init"]).name
    for key in ("backbone", "pool_layers", "concepts", "width", "copies", "seed"):
        del kept[key]
    return kept
