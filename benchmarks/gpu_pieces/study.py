"""One run of the comparison that ACP and CAT have to stand: train an arm, test it."""

import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_pieces.missing import NotHere
from pipeline.models.controls import controls

if TYPE_CHECKING:
    from pipeline.config import DatasetName

ROOT = Path(__file__).resolve().parents[2]
DATASET: "DatasetName" = "ccellbio"
ARM_KEYS = ("pool_layers", "concepts", "copies", "width")
NEEDED = ("albumentations", "cv2", "lightning", "pycocotools", "pydantic", "yaml")
COUNTED = ("AP", "AP50", "AP75", "AR100", "images", "objects")


def run(
    device: str, recipe: str, side: int, arm: str, seed: int, epochs: int, coco: str
) -> dict[str, Any]:
    """Train on the converted dataset `coco` as params.yaml says; figures of the test split."""
    check_packages()
    from pipeline import stages
    from pipeline.config import load_params
    from pipeline.models.saved import SavedModel

    given = [f"recipe={recipe}", f"recipes.{recipe}.epochs.{DATASET}={epochs}"]
    given += [f"train.seed={seed}", f"machine.device={device}", "evaluate.pictures=0"]
    if side:
        given.append(f"recipes.{recipe}.image_size={side}")
    if device == "cpu":
        given.append("machine.workers=0")
    params = load_params(ROOT / "params.yaml", given)
    given += arm_overrides(stages.detector_spec(params, Path(coco)), arm)
    params = load_params(ROOT / "params.yaml", given)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        model = stages.train(params, DATASET, Path(coco), Path(folder) / "train")
        between = time.perf_counter()
        figures = stages.evaluate(params, DATASET, Path(coco), model, Path(folder) / "test")
        end = time.perf_counter()
        detector = SavedModel.load(model).detector
    return {
        "test": {name: figures[name] for name in COUNTED},
        "parameters": sum(p.numel() for p in detector.parameters()),
        "seconds": {"train": round(between - start, 1), "test": round(end - between, 1)},
        "overrides": given,
    }


def check_packages() -> None:
    """Name all that is missing at once, by the names that are imported."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NotHere(f"training and evaluation need packages not installed: {', '.join(missing)}")


def arm_overrides(full: Any, arm: str) -> list[str]:
    """Parameters that make the arm out of the enhanced detector."""
    known = controls(full)
    if arm not in known:
        raise NotHere(f"no arm {arm!r} for {full.backbone}; there are {', '.join(known)}")
    return [f"model.{key}={getattr(known[arm], key)}" for key in ARM_KEYS]


def convert(raw: str, out: str) -> dict[str, Any]:
    """Convert the committed sample, once for all runs."""
    check_packages()
    from pipeline import stages
    from pipeline.config import load_params

    return {
        "line": stages.convert(load_params(ROOT / "params.yaml"), DATASET, Path(raw), Path(out))
    }
