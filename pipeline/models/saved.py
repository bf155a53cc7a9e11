"""A trained model: weights and all that is needed to use them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import __version__
from pipeline.data.geometry import fit_square
from pipeline.data.intensity import Intensity
from pipeline.data.masks import SoftMask, soft_masks
from pipeline.data.sample import to_tensor
from pipeline.errors import DescryError, first_line
from pipeline.models import storage
from pipeline.models.build import build_detector
from pipeline.models.detector import Detector
from pipeline.models.params import DetectorSpec


@dataclass(slots=True)
class Detections:
    """What was found in one image, by descending score.

    Attributes
    ----------
    boxes : array (n, 4), float32
        xyxy in pixels of the image as it was given.
    scores : array (n,), float32
    labels : array (n,), int64
        Category ids.
    masks : sequence of n SoftMask, or None
        None where the model gives boxes only.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Sequence[SoftMask] | None = None


class SavedModel:
    """A detector with its classes, intensity recipe, operating point and origin.

    Attributes
    ----------
    categories : tuple of (id, name)
    intensity : Intensity
    image_size : int
        Side in pixels of the square that the detector sees.
    score_threshold : float
        The operating point of all classes, chosen on the validation split; that of each class
        is in `meta` (`pipeline.models.thresholds`).
    sha256 : str
        Of the file it was loaded from; empty before it is saved.
    trained_on : str
        The dataset's name.
    meta : dict
        Everything else that was recorded (versions, parameters, data hash, intended use).
    """

    def __init__(self, detector: Detector, spec: DetectorSpec, meta: Mapping[str, Any]) -> None:
        self.detector, self.spec, self.meta = detector.eval(), spec, dict(meta)
        self.categories = tuple((int(i), str(name)) for i, name in meta["categories"])
        self.intensity = Intensity(**meta["intensity"])
        self.image_size = int(meta["image_size"])
        self.score_threshold = float(meta["score_threshold"])
        self.trained_on = str(meta["dataset"])
        self.sha256 = ""
        self._bf16 = False

    def save(self, path: Path) -> None:
        """Write the model file atomically; see `pipeline.models.storage`."""
        storage.write(path, self.detector.state_dict(), self.spec, self.meta)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> "SavedModel":
        """Read a model file.

        Raises
        ------
        DescryError
            When the file is missing, is not one of ours, is of a later version or damaged.
        """
        content = storage.read(path)
        detector = build_detector(content.about.detector)
        try:
            detector.load_state_dict(content.weights)
        except RuntimeError as error:
            lines = " ".join(str(error).split())
            raise DescryError(
                f"{path}: its weights are not those of the detector that it describes (written by "
                f"descry {content.version}, read by {__version__}): {lines}"
            ) from error
        model = cls(detector.to(device), content.about.detector, content.meta)
        with path.open("rb") as stream:
            model.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return model

    def prepare(self, precision: str, *, compiled: bool = False, batch_size: int = 1) -> None:
        """Choose how `detect` computes.

        Parameters
        ----------
        precision : str
            "fp32", or "bf16" for backbone, pyramid and heads; boxes and scores stay fp32.
        compiled : bool
            Compile them for batches of `batch_size`, now: it takes a minute or so. Other sizes get
            programs of their own when they come.

        Raises
        ------
        DescryError
            When this machine cannot compile.
        """
        self._bf16 = precision == "bf16"
        if not compiled:
            return
        # Each size by itself, and no GPU kernel picked by the clock: a program must not depend on
        # what came before it, which a resumed run does not see.
        for part in (self.detector.backbone, self.detector.head):
            part.compile(dynamic=False, options={"deterministic": True})
        try:
            self.detect([np.zeros((self.image_size, self.image_size), np.uint8)] * batch_size)
        except Exception as error:  # the compiler and the C++ compiler behind it raise anything
            raise DescryError(
                f"--compile: {first_line(error)}; leave it out on this machine"
            ) from error

    def detect(self, images: Sequence[np.ndarray], side: int = 0) -> list[Detections]:
        """Find objects in 8-bit images (H, W) or (H, W, 3) of any sizes, as one batch.

        `side` shows them to the detector in another size than `image_size`.
        """
        device = next(self.detector.parameters()).device
        fitted = [fit_square(image, side or self.image_size) for image in images]
        batch = torch.stack([to_tensor(square) for square, _ in fitted]).to(device)  # (B, 3, S, S)
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=self._bf16),
        ):
            found = self.detector(batch)
        ids = np.array([category_id for category_id, _ in self.categories], dtype=np.int64)
        results = []
        for (_, fit), raw in zip(fitted, found, strict=True):
            boxes = fit.boxes_out(raw["boxes"].float().cpu().numpy())
            scores = raw["scores"].float().cpu().numpy()
            labels = ids[raw["labels"].cpu().numpy()]
            order = np.lexsort((*boxes.T[::-1], labels, -scores))
            masks = None
            if "masks" in raw:
                soft = soft_masks(raw["masks"].float().cpu().numpy(), raw["boxes"].cpu().numpy())
                masks = [soft[i].scaled(1 / fit.scale_x, 1 / fit.scale_y) for i in order]
            results.append(Detections(boxes[order], scores[order], labels[order], masks))
        return results
