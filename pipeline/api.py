"""The library: what other programs may rely on. Nothing heavy is imported before it is called."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from pydicom import Dataset
    from torch import nn

    from pipeline.models.backbones.base import Backbone
    from pipeline.models.saved import Detections, SavedModel

    Network = TypeVar("Network", bound=nn.Module)
else:
    Network = TypeVar("Network")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was found in one image, strongest first.

    Attributes
    ----------
    source : str
        The file's name; empty for an array or a dataset.
    frame : int
        Place in its file, from 0.
    height, width : int
        Of the image in pixels.
    boxes : array (n, 4), float32
        xyxy in pixels of the image.
    scores : array (n,), float32
    labels : array (n,), int64
        Category ids.
    names : tuple of n str
        Of the categories.
    masks : array (n, height, width), bool, or None
        None where the model gives boxes only.
    """

    source: str
    frame: int
    height: int
    width: int
    boxes: "np.ndarray"
    scores: "np.ndarray"
    labels: "np.ndarray"
    names: tuple[str, ...]
    masks: "np.ndarray | None" = None


class Predictions(Sequence[Prediction]):
    """Predictions of one call, in the order of its images.

    Attributes
    ----------
    categories : tuple of (id, name)
    failures : dict
        File name -> why it could not be read.
    """

    def __init__(
        self,
        images: Sequence[Prediction],
        categories: tuple[tuple[int, str], ...],
        failures: Mapping[str, str],
    ) -> None:
        self.images, self.categories = tuple(images), categories
        self.failures = dict(failures)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        return self.images[i]

    def to_coco(self) -> dict[str, Any]:
        """COCO: "images" (ids from 1), "categories", and the results as "annotations"."""
        from pipeline.data.masks import encode, rle
        from pipeline.data.results import to_results

        images, rows = [], []
        for i, one in enumerate(self.images, 1):
            size = {"height": one.height, "width": one.width}
            images.append({"id": i, "file_name": one.source, "frame": one.frame, **size})
            shapes = None
            if one.masks is not None:
                shapes = [rle(encode(mask), one.height, one.width) for mask in one.masks]
            rows += to_results(i, one.boxes, one.scores, one.labels, shapes)
        categories = [{"id": i, "name": name} for i, name in self.categories]
        return {"images": images, "categories": categories, "annotations": rows}


class Model:
    """A trained model; `load` makes it.

    Attributes
    ----------
    categories : tuple of (id, name)
    thresholds : dict
        Category name -> the score from which on a detection counts.
    about : dict
        All that the file says of itself.
    """

    def __init__(self, saved: "SavedModel") -> None:
        from pipeline.models.thresholds import OperatingPoint

        self._saved = saved
        self.categories, self.about = saved.categories, dict(saved.meta)
        self._lowest = OperatingPoint.read(saved.meta, saved.score_threshold).lowest(
            saved.categories
        )
        self.thresholds = {name: self._lowest[i] for i, name in saved.categories}

    def predict(
        self,
        source: "np.ndarray | Sequence[np.ndarray] | Dataset | Path | str",
        *,
        threshold: float | None = None,
        batch_size: int = 8,
    ) -> Predictions:
        """Find objects.

        Parameters
        ----------
        source : array, list of arrays, Dataset, Path or str
            Images (H, W) or (H, W, 3) RGB, uint8; a DICOM dataset; a file, or a folder of them:
            DICOM (all frames) and ordinary images, read as `descry predict` reads them.
        threshold : float, optional
            Lowest score; by default each category's own from `thresholds`.
        batch_size : int
            Images of one call of the network.
        """
        failures: dict[str, str] = {}
        found: list[Prediction] = []
        batch: list[_Image] = []
        for image in _images(source, self._saved, failures):
            batch.append(image)
            if len(batch) == batch_size:
                found += self._detect(batch, threshold)
                batch = []
        found += self._detect(batch, threshold) if batch else []
        return Predictions(found, self.categories, failures)

    def _detect(self, batch: Sequence["_Image"], threshold: float | None) -> Iterator[Prediction]:
        import numpy as np

        names = dict(self.categories)
        results = self._saved.detect([image.pixels for image in batch])
        for image, found in zip(batch, results, strict=True):
            lowest = [self._lowest[i] if threshold is None else threshold for i in found.labels]
            kept = found.scores >= np.array(lowest, np.float32)
            labels, boxes = found.labels[kept], image.outwards(found.boxes[kept])
            yield Prediction(
                image.source,
                image.frame,
                image.height,
                image.width,
                boxes,
                found.scores[kept],
                labels,
                tuple(names[int(i)] for i in labels),
                _masks(image, found, kept, boxes),
            )


def load(path: Path | str, device: str = "cpu") -> Model:
    """Read a model that `descry train` wrote; `device` in PyTorch's words.

    Raises
    ------
    DescryError
        When the file is none, is damaged or of a later version.
    """
    from pipeline.models.saved import SavedModel

    return Model(SavedModel.load(Path(path), device))


def build_backbone(
    name: str,
    size: str = "tiny",
    *,
    pool_layers: int = 0,
    concepts: int = 0,
    placement: str = "stream",
    drop_path: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> "Backbone":
    """A backbone with fresh weights, for any pyramid and head.

    It maps images (B, 3, H, W), sides from 32 px on, to three maps of strides 8, 16 and 32, whose
    channels are its `channels`.

    Parameters
    ----------
    name : {"vit", "swin", "dat", "acmix_swin", "acmix_resnet", "glnet"}
    size : str
        "micro", "tiny", "small", "base", or the family's own name.
    pool_layers, concepts, placement
        The interaction before attention, see `pipeline.models.params.InteractionSpec`; 0 and 0:
        none.
    drop_path : float, optional
        Stochastic depth of the last block; by default the published rate.
    options : mapping, optional
        What only this family has, see `pipeline.models.params.OPTIONS`.
    """
    from pipeline.models.build import build_backbone as build
    from pipeline.models.params import DetectorSpec, checked

    values = {"backbone": name, "size": size, "pool_layers": pool_layers, "concepts": concepts}
    values |= {"placement": placement, "drop_path": drop_path, "options": dict(options or {})}
    return build(checked(DetectorSpec, {"num_classes": 1, **values}))


def enhance(model: Network, pool_layers: int = 2, concepts: int = 16) -> Network:
    """ACP and CAT for a timm ViT or Swin, in place; see `pipeline.models.enhance.enhance`."""
    from pipeline.models.enhance import enhance as run

    return run(model, pool_layers, concepts)


def _masks(
    image: "_Image", found: "Detections", kept: "np.ndarray", boxes: "np.ndarray"
) -> "np.ndarray | None":
    """Masks (n, H, W) on the image of the detections that are kept, whose boxes there are known."""
    import numpy as np

    if found.masks is None:
        return None
    masks = np.zeros((len(boxes), image.height, image.width), dtype=bool)
    for place, i in enumerate(np.flatnonzero(kept).tolist()):
        mask = found.masks[i]
        if image.fit is not None:
            mask = mask.scaled(1 / image.fit.scale_x, 1 / image.fit.scale_y)
        masks[place] = mask.pixels(image.height, image.width, boxes[place])
    return masks


@dataclass(frozen=True, slots=True)
class _Image:
    """Pixels to look at, and how they came of an image."""

    source: str
    frame: int
    pixels: "np.ndarray"
    height: int
    width: int
    fit: Any = None

    def outwards(self, boxes: "np.ndarray") -> "np.ndarray":
        """Boxes on the pixels as boxes on the image."""
        return boxes if self.fit is None else self.fit.boxes_out(boxes)


def _images(source: Any, saved: "SavedModel", failures: dict[str, str]) -> Iterator[_Image]:
    import numpy as np

    if isinstance(source, np.ndarray):
        source = [source]
    if isinstance(source, str | Path):
        path = Path(source)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            yield from _of_file(file, name, saved, failures)
    elif isinstance(source, Sequence):
        for pixels in source:
            yield _Image("", 0, np.asarray(pixels), *pixels.shape[:2])
    else:
        with tempfile.TemporaryDirectory() as folder:  # read by the one way there is
            path = Path(folder, "dataset.dcm")
            source.save_as(path, enforce_file_format=True)
            yield from _of_file(path, "", saved, failures)


def _of_file(
    path: Path, name: str, saved: "SavedModel", failures: dict[str, str]
) -> Iterator[_Image]:
    from pipeline.predict.decode import Reader
    from pipeline.predict.records import Ended, Picture

    if not path.is_file():
        failures[name] = "no such file"
        return
    for message in Reader(path.parent, saved.intensity)((path.name, False)):
        if isinstance(message, Picture):
            fit = message.fit
            yield _Image(name, message.frame, message.pixels, fit.height, fit.width, fit)
        elif isinstance(message, Ended) and message.status != "processed":
            failures[name] = ": ".join(filter(None, (message.kind, message.message)))
