"""The saved form of a trained model: weights and all that is needed to use them.

The file is read with ``weights_only=True``, so a file from a stranger cannot run code.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.atomic import replacing
from pipeline.data.geometry import fit_square
from pipeline.data.intensity import Intensity
from pipeline.data.sample import to_tensor
from pipeline.errors import DescryError, first_line
from pipeline.models.build import build_detector
from pipeline.models.detector import Detector
from pipeline.models.params import DetectorSpec

FORMAT = 1


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
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


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
        """Write the model file atomically."""
        state = {k: v.detach().cpu() for k, v in self.detector.state_dict().items()}
        about = json.dumps({**self.meta, "detector": asdict(self.spec)}, sort_keys=True)
        with replacing(path, "wb") as stream:
            torch.save({"descry": FORMAT, "about": about, "weights": state}, stream)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> "SavedModel":
        """Read a model file.

        Raises
        ------
        DescryError
            When the file is missing, is not one of ours, or holds anything but plain data.
        """
        content = _read(path)
        about = json.loads(content["about"])
        spec = DetectorSpec(**about.pop("detector"))
        detector = build_detector(spec)
        detector.load_state_dict(content["weights"])
        model = cls(detector.to(device), spec, about)
        model.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
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

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Find objects in 8-bit images (H, W) or (H, W, 3) of any sizes, as one batch."""
        device = next(self.detector.parameters()).device
        fitted = [fit_square(image, self.image_size) for image in images]
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
            results.append(Detections(boxes[order], scores[order], labels[order]))
        return results


def _read(path: Path) -> dict[str, Any]:
    way_out = "give --checkpoint a model.pt that `descry train` wrote"
    if not path.is_file():
        raise DescryError(f"{path}: no such checkpoint; {way_out}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no set of exceptions
        said = first_line(error)
        raise DescryError(f"{path}: not a readable checkpoint ({said}); {way_out}") from error
    if not isinstance(content, dict) or content.get("descry") != FORMAT:
        raise DescryError(f"{path}: not a descry checkpoint of format {FORMAT}; {way_out}")
    return content
