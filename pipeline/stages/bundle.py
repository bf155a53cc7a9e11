"""What a MONAI bundle's configs/inference.json is made of; see `pipeline.models.bundle`."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.models.bundle import model_of
from pipeline.models.detector import Detector
from pipeline.predict.batches import share_cores
from pipeline.predict.options import Options
from pipeline.predict.run import RunSummary, predict_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder:
    """The files to look at; `predict_folder` finds and reads them."""

    folder: str


class Inference:
    """Stands where MONAI has its evaluators: `run` looks at a folder as `descry predict` does.

    Parameters
    ----------
    network : Detector
        On its device.
    about, weights : str
        The bundle's configs/model.json and models/model.pt.
    dataset : Folder
    inferer : callable
        Of (images, network), as MONAI's inferers are.
    output_dir : str
        See `predict_folder`.
    """

    def __init__(
        self,
        network: Detector,
        about: str,
        weights: str,
        dataset: Folder,
        inferer: Callable[..., Any],
        output_dir: str,
    ) -> None:
        self.model = model_of(network, about, weights)
        self.model.detector = _Inferred(network, inferer)  # type: ignore[assignment]
        self.dataset, self.out = dataset, Path(output_dir)

    def run(self) -> RunSummary:
        """Detect; files that failed are in failures.csv."""
        device = next(self.model.detector.parameters()).device.type
        workers, described = share_cores(device, -1)
        options = replace(Options(), workers=workers)
        summary = predict_folder(
            Path(self.dataset.folder), self.out, self.model, options=options, device=described
        )
        log.info("%d detections; see %s", summary.counts["detections"], self.out)
        return summary


class _Inferred(nn.Module):
    def __init__(self, network: Detector, inferer: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.inferer = network, inferer

    def forward(self, images: Tensor) -> Any:
        return self.inferer(images, self.network)
