"""A folder looked at by a Ray cluster: shards as Ray tasks, put together as one run.

Each task is `predict_folder` on a shard, with a pool of decoding processes of its own, into a
folder that all nodes see. A task whose process or node dies is started again by Ray where there is
room, and goes on from the shard's journal. `merge` makes of the shards what one run would have
written.
"""

import logging
import os
import shutil
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.atomic import write_json
from pipeline.errors import DescryError
from pipeline.models.exported import open_model
from pipeline.models.saved import SavedModel
from pipeline.predict.batches import share_cores
from pipeline.predict.merge import merge
from pipeline.predict.options import Options
from pipeline.predict.plan import Plan
from pipeline.predict.results import PREDICTION
from pipeline.predict.run import RunSummary, predict_folder
from pipeline.predict.sources import find_files
from pipeline.stages.machine import pick_device
from pipeline.stages.predict import check_masks
from pipeline.work.progress import Progress

SHARDS = 4  # for each task that the cluster has room for: the last ones end nearly together
RETRIES = 10  # of a task whose process or node has died
_ASKED = "asked.json"  # in the folder of the shards: what they are shards of

log = logging.getLogger(__name__)


def predict(
    source: Path, out: Path, checkpoint: Path, options: Options, device: str, cpus: int
) -> RunSummary:
    """Run a model on a folder with the Ray cluster of RAY_ADDRESS, else with one on this machine.

    Parameters
    ----------
    source, out, checkpoint : Path
        All nodes see them under these paths. The shards grow in ``<out>.shards``, where a run
        that was stopped goes on.
    options : Options
        `num_shards` above 1 sets how many there are.
    device : str
        "auto" (this machine's), "cpu", or "cuda": each task has a GPU.
    cpus : int
        Cores of a task.

    Raises
    ------
    DescryError
        When Ray is missing, the cluster has no room for a task, or a shard cannot be carried out.
    """
    ray, device = _ray(), pick_device(device)
    source, out, checkpoint = (path.resolve() for path in (source, out, checkpoint))
    if source in out.parents:
        raise DescryError(f"--out {out}: lies in the folder that is read; give another")
    paths, model = find_files(source, out), open_model(checkpoint)
    check_masks(model.spec.task, options)
    with _connected(ray):
        room = _room(ray, device, cpus)
        asked = options.num_shards if options.num_shards > 1 else SHARDS * room
        options = replace(options, num_shards=min(asked, len(paths)), shard=0)
        if options.num_shards == 1:
            return _shard(source, out, checkpoint, options, device, cpus)
        shards = out.with_name(out.name + ".shards")
        _prepare(shards, Plan(source, model, options).identity(paths))
        _run(ray, [source, shards, checkpoint, options, device, cpus], len(paths))
    with Progress("merge", "files") as progress:
        summary = merge(shards, out, source, progress)
    shutil.rmtree(shards)
    return summary


def _ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise DescryError(
            "--engine ray: needs Ray: `python -m pip install 'descry[ray]'` installs it"
        ) from error


def _connected(ray: Any) -> Any:
    """A connection, which is a context; nothing is reported to anybody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    more = {} if address else {"include_dashboard": False}
    return ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="descry",
        **more,
    )


def _room(ray: Any, device: str, cpus: int) -> int:
    """Number of tasks at a time."""
    needed = {"CPU": cpus} | ({"GPU": 1} if device == "cuda" else {})
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(has.get(k, 0)) // number for k, number in needed.items()) for has in nodes)
    if not room:
        wanted = " and ".join(f"{number} {kind}" for kind, number in needed.items())
        raise DescryError(f"--engine ray: no node of the cluster has {wanted} for a task")
    return room


def _prepare(shards: Path, identity: dict[str, Any]) -> None:
    """Keep finished shards if they are of this very run."""
    text = shards / _ASKED
    shards.mkdir(parents=True, exist_ok=True)
    fresh = shards / f".{_ASKED}"
    write_json(fresh, identity)
    if not text.is_file() or text.read_bytes() != fresh.read_bytes():
        for path in shards.glob("shard-*"):
            shutil.rmtree(path)
    fresh.replace(text)


def _run(ray: Any, call: list[Any], files: int) -> None:
    """Run the shards that are not finished; the first error ends it."""
    source, shards, checkpoint, options, device, cpus = call
    task = ray.remote(num_cpus=cpus, num_gpus=1 if device == "cuda" else 0, max_retries=RETRIES)(
        _shard
    )
    todo = [replace(options, shard=shard) for shard in range(options.num_shards)]
    todo = [one for one in todo if not PREDICTION.is_in(one.output(shards))]
    waiting = [task.remote(source, shards, checkpoint, one, device, cpus) for one in todo]
    done = files - sum(len(range(one.shard, files, one.num_shards)) for one in todo)
    with Progress("predict", "files", files) as progress:
        progress(done, files)
        while waiting:
            finished, waiting = ray.wait(waiting)
            try:
                done += sum(one.counts["files"] for one in ray.get(finished))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, DescryError):
                    raise error.cause from None
                raise
            progress(done, files)


def _shard(
    source: Path, out: Path, checkpoint: Path, options: Options, device: str, cpus: int
) -> RunSummary:
    """One shard, in a process of a node."""
    workers, described = share_cores(device, options.workers, cpus)
    options = replace(options, workers=workers)
    model = _model(checkpoint, device)
    model.prepare(options.precision, compiled=options.compile, batch_size=options.batch_size)
    return predict_folder(source, out, model, options=options, device=described)


@lru_cache(maxsize=1)  # Ray keeps processes for the next tasks
def _model(checkpoint: Path, device: str) -> SavedModel:
    return open_model(checkpoint, device)
