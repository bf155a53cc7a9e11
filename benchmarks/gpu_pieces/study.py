"""Training runs: one of the comparison that ACP and CAT have to stand, or one made twice."""

import hashlib
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
NEEDED = (  # with what albumentations and pydantic need in turn, so that all is named at once
    "albumentations", "albucore", "stringzilla", "simsimd", "cv2", "scipy",
    "pydantic", "pydantic_core", "annotated_types", "typing_inspection",
    "lightning", "rich", "yaml",
)  # fmt: skip
COUNTED = ("AP", "AP50", "AP75", "AR100", "images", "objects")


def run(
    device: str,
    recipe: str,
    side: int,
    arm: str,
    seed: int,
    epochs: int,
    coco: str,
    workers: int,
) -> dict[str, Any]:
    """Train on the converted dataset `coco` as params.yaml says; figures of the test split."""
    check_packages()
    from pipeline.config import load_params
    from pipeline.models.saved import SavedModel
    from pipeline.stages.train import detector_spec

    given = [*overrides(device, recipe, side, epochs), f"train.seed={seed}"]
    params = load_params(ROOT / "params.yaml", given)
    given += arm_overrides(detector_spec(params, Path(coco)), arm)
    with tempfile.TemporaryDirectory() as folder:
        seconds, figures = train_and_test(given, Path(coco), Path(folder), workers)
        model = Path(folder) / "train/model.safetensors"
        return {
            "test": {name: figures[name] for name in COUNTED},
            "parameters": sum(p.numel() for p in SavedModel.load(model).detector.parameters()),
            "seconds": seconds,
            "sha256 of the model": digest(model),
            "overrides": given,
        }


def twice(
    device: str, recipe: str, side: int, epochs: int, precision: str, coco: str, workers: int
) -> dict[str, Any]:
    """Whether `descry train` and `descry evaluate` write the same bytes twice.

    The second run has another number of loader processes, which must change nothing.
    """
    check_packages()
    given = [*overrides(device, recipe, side, epochs), f"train.precision={precision}"]
    written = []
    for processes in (workers, 0 if workers else 1):
        with tempfile.TemporaryDirectory() as folder:
            train_and_test(given, Path(coco), Path(folder), processes)
            written.append(digests(Path(folder)))
    first, second = written
    different = [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]
    verdict = {"equal": not different, "files": len(first), "different": different}
    return {precision: verdict | {"sha256 of the model": first["train/model.safetensors"]}}


def overrides(device: str, recipe: str, side: int, epochs: int) -> list[str]:
    """Parameters that all runs share; side 0 is the recipe's own."""
    given = [f"recipe={recipe}", f"recipes.{recipe}.epochs.{DATASET}={epochs}"]
    given += [f"machine.device={device}", "evaluate.pictures=0", "evaluate.gallery=0"]
    given.append("evaluate.resamples=0")  # intervals of one run are not what is compared
    return given + ([f"recipes.{recipe}.image_size={side}"] if side else [])


def train_and_test(
    given: list[str], coco: Path, folder: Path, workers: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Write ``train/`` and ``test/`` into `folder`; the seconds of both, the test's figures."""
    from pipeline.config import load_params
    from pipeline.stages.evaluate import evaluate
    from pipeline.stages.train import train

    where = [f"machine.workers={workers}", f"machine.scratch={folder / 'scratch'}"]
    params = load_params(ROOT / "params.yaml", given + where)
    start = time.perf_counter()
    model = train(params, DATASET, coco, folder / "train")
    between = time.perf_counter()
    figures = evaluate(params, DATASET, coco, [model], folder / "test")
    end = time.perf_counter()
    return {"train": round(between - start, 1), "test": round(end - between, 1)}, figures


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Of all that a run writes and that must repeat; ``timing.csv`` says how long it took."""
    files = [*(folder / "train").rglob("*"), *(folder / "test").rglob("*")]
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in files
        if path.is_file() and path.name != "timing.csv"
    }


def check_packages() -> None:
    """Name all that is missing at once, by the names that are imported."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NotHere(f"training needs, by import names: {', '.join(missing)}")


def arm_overrides(full: Any, arm: str) -> list[str]:
    """Parameters that make the arm out of the enhanced detector."""
    known = controls(full)
    if arm not in known:
        raise NotHere(f"no arm {arm!r} for {full.backbone}; there are {', '.join(known)}")
    return [f"model.{key}={getattr(known[arm], key)}" for key in ARM_KEYS]


def convert(raw: str, out: str) -> dict[str, Any]:
    """Convert the committed sample, once for all runs."""
    check_packages()
    from pipeline.config import load_params
    from pipeline.stages.convert import convert as run

    return {"line": run(load_params(ROOT / "params.yaml"), DATASET, Path(raw), Path(out))}
