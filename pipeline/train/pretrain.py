"""Masked-image pretraining of a backbone on the training split alone, from random weights.

After SimMIM (arXiv 2111.09886): most of an image is hidden, square by square, and the network says
what was there; L1 over the hidden pixels. There a learned token stands for a hidden patch and the
last map alone is read; here hidden pixels have the mean colour, which every backbone can take, and
the maps of three strides add up what they say, so that all of the backbone learns. No file of the
validation or test split is opened.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from pipeline.config import Pretrain
from pipeline.data.index import CocoIndex
from pipeline.data.loader import ResumableLoader, training_loader
from pipeline.data.sample import Batch
from pipeline.errors import DescryError
from pipeline.models.backbones.base import STRIDES
from pipeline.models.build import build_detector
from pipeline.models.detector import Detector
from pipeline.models.init import ANEW
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel
from pipeline.train.callback import Shown
from pipeline.train.checkpoint import (
    RunFolder,
    data_digest,
    identity,
    random_states,
    restore_random_states,
)
from pipeline.train.guards import check_finite, naming_the_disk
from pipeline.train.module import Steps
from pipeline.train.optimisation import lr_factor, parameter_groups, scaled_lr
from pipeline.train.processes import Processes
from pipeline.train.progress import Progress, write_history
from pipeline.train.run import loader_plan, settle
from pipeline.train.settings import Machine, Settings
from pipeline.train.validation import describe, save_model

CELL = 32  # px, side of the squares that are hidden; a cell of the coarsest map
_DRAWS = 3  # tells the stream of hidden squares from those of the data path


class Decoder(nn.Module):
    """Maps of strides 8, 16 and 32 to an image (B, 3, H, W): a linear layer each, and their sum."""

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        pairs = zip(channels, STRIDES, strict=True)
        self.layers = nn.ModuleList(nn.Conv2d(c, 3 * stride**2, 1) for c, stride in pairs)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Colours as the backbone sees them, normalised."""
        triples = zip(self.layers, maps, STRIDES, strict=True)
        return torch.stack([F.pixel_shuffle(layer(x), s) for layer, x, s in triples]).sum(dim=0)


def hidden_squares(
    seed: int, epoch: int, step: int, images: int, side: int, ratio: float
) -> Tensor:
    """Which pixels are hidden, (B, 1, H, W) bool: of each image as many squares, drawn anew."""
    n = -(-side // CELL)
    draws = np.random.default_rng((seed, epoch, step, _DRAWS)).random((images, n * n))
    ranks = torch.from_numpy(draws.argsort(axis=1).argsort(axis=1))
    cells = (ranks < round(ratio * n * n)).view(images, 1, n, n)
    return cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)[..., :side, :side]


@dataclass(slots=True)
class _Run:
    """What learns, and how far it is."""

    detector: Detector
    decoder: Decoder
    optimizer: AdamW
    progress: Progress

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "detector": self.detector.state_dict(),
            "decoder": self.decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress.plain(),
            "random": random_states(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.detector.load_state_dict(state["detector"])
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        restore_random_states(state["random"])


def pretrain(
    coco: Path,
    out: Path,
    spec: DetectorSpec,
    settings: Settings,
    chosen: Pretrain,
    machine: Machine,
    shown: Shown = lambda done, total, note: None,
) -> None:
    """Pretrain a detector's backbone, or go on after the last whole epoch.

    Writes ``model.safetensors``, a detector for ``train.init`` whose pyramid and head are as they
    were drawn, and ``history.csv``: the same bytes however often the run was interrupted.

    Parameters
    ----------
    coco : Path
        A converted dataset, of which ``annotations/train.json`` and its images are read.
    """
    settle()
    torch.use_deterministic_algorithms(settings.train.deterministic)
    index = CocoIndex(coco / "annotations/train.json", coco / "images")
    data = data_digest([index])
    given = {"detector": asdict(spec), "settings": asdict(settings), "pretrain": asdict(chosen)}
    where = f"{machine.device}, {torch.get_num_threads()} threads"
    name = identity(given | {"device": where}, data, "pretrain")
    folder = RunFolder(machine.scratch, name)
    with naming_the_disk(out), folder.claimed(out, 0):
        run = _begun(spec, settings, chosen, machine.device)
        state = folder.load()
        if state is not None:
            run.restore(state)
        steps = _learn(run, index, settings, chosen, machine, folder, shown)
        about = describe(settings, index, data, steps, machine.device, 1)
        about |= {"initialised_from": ANEW, "pretraining": asdict(chosen)}
        save_model(SavedModel(run.detector, spec, about), out / "model.safetensors")
        write_history(out, run.progress.rows)
        folder.remove()


def _begun(spec: DetectorSpec, settings: Settings, chosen: Pretrain, device: str) -> _Run:
    train = settings.train
    L.seed_everything(train.seed, verbose=False)
    detector = build_detector(spec, checkpointing=train.gradient_checkpointing).to(device).train()
    decoder = Decoder(detector.backbone.backbone.channels).to(device)
    learning = nn.ModuleList([detector.backbone.backbone, decoder])
    optimizer = AdamW(
        parameter_groups(learning, train.weight_decay),
        lr=scaled_lr(replace(train, lr=chosen.lr), settings.batch_size),
        fused=True if train.fused else None,
    )
    return _Run(detector, decoder, optimizer, Progress())


def _learn(
    run: _Run,
    index: CocoIndex,
    settings: Settings,
    chosen: Pretrain,
    machine: Machine,
    folder: RunFolder,
    shown: Shown,
) -> Steps:
    """All epochs that are left."""
    progress, train = run.progress, settings.train
    plan = loader_plan(settings, machine, Processes(), progress)
    loader = training_loader(index, plan)
    steps = Steps(loader.batch_sampler.batch_size, len(loader), 1, chosen.epochs)  # type: ignore[union-attr]
    if steps.batches == 0:
        raise DescryError(f"{index.path}: no training images")
    batches = ResumableLoader(loader, steps.batches, chosen.epochs, progress.epoch, 0)
    saved = perf_counter()
    highest = scaled_lr(replace(train, lr=chosen.lr), settings.batch_size)
    for batch in batches:
        done = progress.epoch * steps.batches + progress.batch
        lr = highest * lr_factor(done, steps.total, replace(train, schedule="cosine"))
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        loss = _step(run, batch.to(machine.device), settings, chosen)
        check_finite({"loss": loss}, batch.image_ids, done, lr, folder.path / "not_finite.json")
        progress.count({"loss": loss})
        shown(done + 1, steps.total, f"epoch {progress.epoch + 1}/{chosen.epochs}, loss {loss:.3f}")
        if progress.batch < steps.batches:
            continue
        means = {name: round(value, 6) for name, value in progress.means().items()}
        progress.rows.append({"epoch": progress.epoch + 1, **means, "lr": f"{lr:.3e}"})
        progress.next_epoch()
        if perf_counter() - saved >= 60 * machine.checkpoint_minutes:
            folder.save(run.state())
            saved = perf_counter()
    return steps


def _step(run: _Run, batch: Batch, settings: Settings, chosen: Pretrain) -> float:
    """One update; the loss before it."""
    train, progress = settings.train, run.progress
    colours = run.detector.transform(batch.images)[0].tensors
    side = colours.shape[-1]
    place = (train.seed, progress.epoch, progress.batch)
    hidden = hidden_squares(*place, len(batch), side, chosen.mask_ratio).to(colours.device)
    bf16 = train.precision == "bf16"
    with torch.autocast(colours.device.type, torch.bfloat16) if bf16 else nullcontext():
        found = run.decoder(run.detector.backbone.backbone(colours.masked_fill(hidden, 0.0)))
    found = found[..., :side, :side].float()
    # L1 over hidden pixels; multiplied, since picking them would wait for a GPU
    loss = ((found - colours).abs() * hidden).sum() / (3 * hidden.sum()).clamp(min=1)
    run.optimizer.zero_grad()
    loss.backward()
    learning = [p for group in run.optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(learning, train.clip_norm)
    run.optimizer.step()
    return float(loss.detach())
