"""What a run is, before its first picture: a source, a model and options, and what follows of them.

Two runs of equal `Plan.identity` give equal bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline import versions as installed
from pipeline.dicom.pseudonym import Pseudonyms
from pipeline.models.thresholds import OperatingPoint, doubts, known
from pipeline.predict.batches import TrainedModel
from pipeline.predict.decode import Reader, Reduction
from pipeline.predict.options import Options
from pipeline.predict.records import Opened
from pipeline.predict.sources import fingerprint, root_of
from pipeline.predict.windows import Windows


class Plan:
    """A run as it was asked for.

    Parameters
    ----------
    source : Path
        Folder or file, as for `find_files`.
    detector : TrainedModel
    options : Options
    device : str
        What the detector runs on, in words.

    Attributes
    ----------
    root : Path
        What the paths of input files are relative to.
    classes : dict
        Category id -> name.
    point : OperatingPoint
    thresholds : dict
        Category id -> the lowest score that counts.
    doubts : list of str
        Why its detections should not be relied on.
    windows : Windows
    pseudonyms : Pseudonyms or None
    """

    def __init__(
        self, source: Path, detector: TrainedModel, options: Options, device: str = "cpu"
    ) -> None:
        self.root, self.detector, self.options = root_of(source), detector, options
        self.device = device
        self.classes = dict(detector.categories)
        self.point = self._operating_point()
        self.thresholds = self.point.lowest(detector.categories)
        given = options.score_threshold is not None
        self.doubts = doubts(detector.meta, own_threshold=given)
        self.windows = Windows.of(options.window, detector.meta.get("longest_side"))
        self.pseudonyms = None if options.key is None else Pseudonyms(options.key)

    def _operating_point(self) -> OperatingPoint:
        """The user's threshold for all classes, else what the checkpoint says."""
        if self.options.score_threshold is not None:
            return OperatingPoint(self.options.score_threshold, "--threshold")
        return OperatingPoint.read(self.detector.meta, self.detector.score_threshold)

    def reader(self, lost: Mapping[str, str]) -> Reader:
        """What the worker processes do; `lost` is what an archive did not give, with reasons."""
        trained_on = self.detector.meta.get("modality") or ()
        modalities = (trained_on,) if isinstance(trained_on, str) else tuple(trained_on)
        drawn = self.options.overlays != "none"
        return Reader(
            self.root.resolve(),
            self.detector.intensity,
            self.options.filters,
            tuple(name.upper() for name in modalities),
            lost,
            Reduction(self.detector.image_size, self.windows, drawn),
        )

    def identity(self, paths: Sequence[str]) -> dict[str, Any]:
        """Return all that must be equal for a stopped run over these files to be continued."""
        digest = sha256()
        for path in paths:
            digest.update(json.dumps([self.shown(path), *fingerprint(self.root, path)]).encode())
        return {"files": digest.hexdigest(), **self.description()}

    def description(self) -> dict[str, Any]:
        """What the results depend on, for run.json."""
        chosen = asdict(self.options)
        for key in ("workers", "timeout", "score_threshold"):  # change no result
            del chosen[key]
        del chosen["key"]
        chosen["objects"] = self.options.objects.to_dict()
        given = self.options.score_threshold is not None
        return {
            "checkpoint": {
                "sha256": self.detector.sha256,
                "trained_on": self.detector.trained_on,
                "known": known(self.detector.meta),
            },
            "categories": [{"id": i, "name": name} for i, name in self.detector.categories],
            "image_size": self.detector.image_size,
            "intensity": self.detector.intensity.to_dict(),
            "score_threshold": {
                "by_class": {name: self.thresholds[i] for i, name in self.detector.categories},
                "from": "--threshold" if given else "checkpoint (chosen on validation data)",
                "sources": self.point.sources,
            },
            "doubts": self.doubts,
            "window": asdict(self.windows),
            "options": chosen,
            "pseudonyms": {"key_id": self.pseudonyms.key_id} if self.pseudonyms else None,
            "device": self.device,
            "versions": versions(),
        }

    def shown(self, path: str) -> str:
        """What a file is called in all that is written."""
        return self.pseudonyms.text("path", path) if self.pseudonyms else path

    def known_as(self, opened: Opened) -> Opened:
        """The UIDs that are written."""
        if self.pseudonyms is None:
            return opened
        uid = self.pseudonyms.uid
        return replace(
            opened,
            study=uid(opened.study),
            series=uid(opened.series),
            instance=uid(opened.instance),
        )


_PACKAGES = (
    "numpy",
    "pillow",
    "pydicom",
    "pyjpegls",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "python-gdcm",
    "torch",
    "torchvision",
)


def versions() -> dict[str, str]:
    """Return name -> version of Python, of this package and of what decodes and computes."""
    return installed.versions(_PACKAGES)
