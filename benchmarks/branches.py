"""What a trained model makes of ACP and CAT: how much each adds, and what is lost without it.

Of every block, the size of what each part of [y; acp; cat] adds to the stream through its columns
of W_o, as a share of the stream's own (root mean squares over all validation images). And the AP on
the validation split when those columns are set to zero, in all blocks at once, after training.
Neither says what a model without that part would have learned: that is what `study` is for.

    python benchmarks/branches.py MODEL --coco FOLDER --out benchmarks/results/branches/NAME.json
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from machine import machine
from pieces import PACKAGES, commit
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.atomic import write_json
from pipeline.data.index import CocoIndex
from pipeline.errors import DescryError
from pipeline.evaluate.operating_point import validate
from pipeline.models.inference import detect_split
from pipeline.models.interaction import Interaction, Stream
from pipeline.models.saved import SavedModel
from pipeline.versions import versions

FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")


def parts(interaction: Interaction) -> dict[str, slice]:
    """Name of each part of what W_o joins -> its columns."""
    if interaction.copies:
        names = [f"copy {i}" for i in range(1, interaction.parts + 1)]
    else:
        found = {"own": True, "acp": interaction.acp, "cat": interaction.cat}
        names = [name for name, there in found.items() if there is not None]
    width = interaction.aggregate.out_features
    return {name: slice(i * width, (i + 1) * width) for i, name in enumerate(names)}


def joined(interaction: Interaction, y: Tensor) -> list[Tensor]:
    """What W_o joins, [y; acp; cat] or copies of y, in the order of `parts`."""
    if interaction.copies:
        return [y] * interaction.parts
    found, u = [y], y
    if interaction.acp is not None:
        found.append(interaction.acp(y))
        u = y + found[-1]
    return found if interaction.cat is None else [*found, interaction.cat(u)]


@contextmanager
def without(streams: list[Stream], name: str) -> Iterator[None]:
    """W_o's columns of a part are zero inside the block."""
    with torch.no_grad(), ExitStack() as after:
        for stream in streams:
            weight = stream.interaction.aggregate.weight
            chosen = parts(stream.interaction)[name]
            after.callback(weight.copy_, weight.clone())
            weight[:, chosen] = 0
        yield


class Shares:
    """Sums of squares of a stream and of what each part adds to it, while it runs."""

    def __init__(self, stream: Stream) -> None:
        self.interaction = stream.interaction
        self.parts = parts(stream.interaction)
        self.squares = dict.fromkeys(("stream", *self.parts), 0.0)
        stream.register_forward_pre_hook(self._stream)
        stream.interaction.register_forward_pre_hook(self._joined)

    def _stream(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self.squares["stream"] += float(inputs[0].double().square().sum())

    def _joined(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        weight = self.interaction.aggregate.weight
        features = joined(self.interaction, inputs[0])
        for (name, chosen), part in zip(self.parts.items(), features, strict=True):
            added = F.linear(part, weight[:, chosen])
            self.squares[name] += float(added.double().square().sum())

    def result(self) -> dict[str, float]:
        """Root mean square of each part over the stream's."""
        whole = self.squares["stream"]
        return {name: round((self.squares[name] / whole) ** 0.5, 4) for name in self.parts}


def study(path: Path, coco: Path) -> dict[str, Any]:
    """Shares of each block, and the figures with and without each part.

    Raises
    ------
    DescryError
        When the model has no stream to look at.
    """
    model = SavedModel.load(path)
    streams = [m for m in model.detector.modules() if isinstance(m, Stream)]
    if not streams:
        raise DescryError(f"{path}: no ACP or CAT placed in the stream, so nothing to take away")
    index = CocoIndex(coco / "annotations/val.json", coco / "images")

    def figures() -> dict[str, float]:
        scores, _ = validate(index.path, detect_split(model, index, batch_size=8))
        return {name: scores[name] for name in FIGURES}

    lost = {}
    for name in parts(streams[0].interaction):
        with without(streams, name):
            lost[name] = figures()
    shares = [Shares(stream) for stream in streams]
    whole = figures()
    about = {"dataset": model.meta["dataset"], "backbone": model.spec.backbone}
    about |= {"concepts": model.spec.concepts, "pool_layers": model.spec.pool_layers}
    about |= {"copies": model.spec.copies, "seed": model.meta["seed"], "split": "validation"}
    shown = [share.result() for share in shares]
    return {**about, "whole": whole, "without": lost, "share of the stream by block": shown}


def main() -> None:
    """Write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    where = {"commit": commit(), "machine": machine(), "versions": versions(PACKAGES)}
    write_json(given.out, study(given.model, given.coco) | where)


if __name__ == "__main__":
    main()
