"""Which of how many training processes this is: torchrun, SLURM, or started by Lightning."""

import os
import signal
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch import distributed

from pipeline.errors import DescryError


@dataclass(frozen=True, slots=True)
class Processes:
    """Place of this process among all.

    Attributes
    ----------
    rank : int
        Of this process; 0 writes.
    devices : int
        Processes on this machine.
    nodes : int
        Machines.
    """

    rank: int = 0
    devices: int = 1
    nodes: int = 1

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes


def find_processes(devices: int) -> Processes:
    """What torchrun or srun has started; else `devices` processes, which Lightning starts.

    Lightning starts them by running this command again, with LOCAL_RANK set.

    Raises
    ------
    DescryError
        When SLURM's tasks are not all here, or not as many on each machine.
    """
    env = os.environ
    if TorchElasticEnvironment.detect():
        local = int(env["LOCAL_WORLD_SIZE"])
        return Processes(int(env["RANK"]), local, int(env["WORLD_SIZE"]) // local)
    if SLURMEnvironment.detect():
        return _tasks_of_slurm()
    return Processes(int(env.get("LOCAL_RANK", "0")) if devices > 1 else 0, devices)


def slurm() -> SLURMEnvironment | None:
    """SLURM, where the processes are its tasks, and none that torchrun has started in a job.

    Without Lightning's way of requeueing, which would bring back a state of its own beside that of
    our checkpoint.
    """
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return None
    return SLURMEnvironment(auto_requeue=False)


def _tasks_of_slurm() -> Processes:
    env = os.environ
    tasks, nodes = int(env["SLURM_NTASKS"]), int(env.get("SLURM_NNODES", "1"))
    if tasks > 1 and "SLURM_STEP_ID" not in env:  # one process, which would wait for the others
        raise DescryError(
            f"SLURM: the job has {tasks} tasks, but this command was not started by srun; "
            "put srun before it, or ask for one task"
        )
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in env:
        raise DescryError(
            f"SLURM: {tasks} tasks on {nodes} nodes were asked for with --ntasks; "
            "use --ntasks-per-node, so that each node has as many"
        )
    return Processes(int(env["SLURM_PROCID"]), tasks // nodes, nodes)


def gathered(value: Any) -> list[Any]:
    """A plain value of every process, in the order of their ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def any_process(mine: bool, device: torch.device) -> bool:
    """Whether any process says yes; all of them hear the same."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return mine
    votes = torch.tensor(int(mine), device=device)
    distributed.all_reduce(votes, distributed.ReduceOp.MAX)
    return bool(votes)


class EndsAtOnce(L.Callback):
    """SIGTERM ends a run on the spot, as SIGKILL would, and with it what Lightning has started.

    Lightning itself would finish the batch and exit with 0, as after a complete run, and would tell
    the other processes by a collective that theirs may not meet.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the handler that Lightning has set by now."""

        def end(number: int, frame: FrameType | None) -> None:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGKILL)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, end)
