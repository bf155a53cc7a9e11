"""One process of a run over several; started by test_ddp.py, alone or through torchrun.

python ddp_program.py gradients FOLDER     one step: losses and gradients of all images
python ddp_program.py train FOLDER         a whole run into FOLDER/out<world size>
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from train_factory import SETTINGS, SPEC, changed, run

from pipeline.data.index import CocoIndex
from pipeline.data.loader import LoaderPlan, training_loader
from pipeline.models.build import build_detector
from pipeline.train.processes import Processes, find_processes, gathered

IMAGES = 4  # of a step, however many processes share it


def gradients(folder: Path) -> None:
    """The first two steps; the last one has a single positive image."""
    who = find_processes(1)
    index = CocoIndex(folder / "coco/annotations/train.json", folder / "coco/images")
    plan = LoaderPlan(64, SETTINGS.intensity, "flip", 0, IMAGES // who.world)
    loader = training_loader(index, replace(plan, rank=who.rank, world_size=who.world))
    torch.manual_seed(0)
    model = build_detector(SPEC).double()
    if who.world > 1:
        distributed.init_process_group("gloo")
        model = DistributedDataParallel(model)
    found = []
    for batch in loader:
        model.zero_grad()
        losses = model([image.double() / 255 for image in batch.images], batch.targets)
        torch.stack(list(losses.values())).sum().backward()
        parts = gathered({name: float(value.detach()) for name, value in losses.items()})
        ids = [i for part in gathered(batch.image_ids) for i in part]
        found.append(
            {
                "ids": ids,
                "losses": {k: sum(part[k] for part in parts) / len(parts) for k in parts[0]},
                "gradients": [p.grad for p in model.parameters()],
            }
        )
    if who.rank == 0:
        torch.save(found, folder / f"gradients{who.world}.pt")
    if who.world > 1:
        distributed.destroy_process_group()


def whole(folder: Path) -> None:
    """A run with a moving average, killed once if DIE_AT names a step."""
    who: Processes = find_processes(1)
    if die := int(os.environ.get("DIE_AT", "0")):
        from pipeline.train.module import TrainingModule

        step = TrainingModule.training_step

        def dying(self, batch, index):
            if self.step == die:
                os._exit(9)
            return step(self, batch, index)

        TrainingModule.training_step = dying
    settings = changed(ema=0.9, batch_size=IMAGES // who.world)
    out = folder / os.environ.get("OUT", f"out{who.world}")
    run(folder / "coco", out, settings=settings, scratch=out.with_suffix(".scratch"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"gradients": gradients, "train": whole}[sys.argv[1]](Path(sys.argv[2]))
