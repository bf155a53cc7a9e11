"""A dataset, its detections or a folder of predictions, to be looked through in a browser."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from pipeline.browse.collection import Collection
from pipeline.browse.review import Review
from pipeline.browse.server import BrowseServer
from pipeline.browse.session import Session
from pipeline.browse.sources import Detector, open_splits
from pipeline.config import Params
from pipeline.convert.registry import AugmentName
from pipeline.data.intensity import Intensity
from pipeline.models.thresholds import OperatingPoint
from pipeline.stages import DATASETS, RUNS


@dataclass(frozen=True, slots=True)
class BrowseOptions:
    """What the command line says beside the parameters; see `pipeline.browse.sources`."""

    images: Path | None = None
    split: str = ""
    predictions: Path | None = None
    checkpoint: Path | None = None
    threshold: float | None = None
    review: Path = Path("review.csv")
    port: int = 0


def browse(params: Params, what: str, options: BrowseOptions) -> BrowseServer:
    """A server that is ready to run; of a dataset's name, with what `descry evaluate` found."""
    name = what.replace("-", "_").lower()
    named = name in params.known and not Path(what).exists()
    predictions = options.predictions
    if named and predictions is None and options.checkpoint is None:
        usual = RUNS / name / "evaluate/predictions.json"
        predictions = usual if usual.is_file() and options.split in ("", "test") else None
    splits = open_splits(
        DATASETS / name / "coco" if named else Path(what),
        images=options.images,
        split=options.split,
        predictions=predictions,
        detector=_detector(params, options.checkpoint),
        threshold=options.threshold,
    )
    first = params.augment[name] if named else "flip"
    recipes = (first, *(recipe for recipe in get_args(AugmentName) if recipe != first))
    intensity = Intensity(**asdict(params.intensity))
    session = Session(Collection(splits), Review(options.review), intensity, what, recipes)
    return BrowseServer(session, options.port)


def _detector(params: Params, checkpoint: Path | None) -> Detector | None:
    if checkpoint is None:
        return None
    from pipeline.data.index import CocoIndex  # torch: only where a model looks
    from pipeline.models.inference import detect_split
    from pipeline.models.saved import SavedModel
    from pipeline.stages.machine import loader_workers, pick_device

    device = pick_device(params.machine.device)
    model = SavedModel.load(checkpoint, device)

    def detect(coco: Path, images: Path) -> list[dict[str, Any]]:
        workers = loader_workers(params, device)
        size = params.scale.batch_size
        return detect_split(model, CocoIndex(coco, images), batch_size=size, workers=workers)

    return Detector(detect, OperatingPoint.read(model.meta, model.score_threshold))
