"""Which of how many training processes this is: torchrun, SLURM, or started by Lightning."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch import distributed


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
    """
    env = os.environ
    if TorchElasticEnvironment.detect():
        local = int(env["LOCAL_WORLD_SIZE"])
        return Processes(int(env["RANK"]), local, int(env["WORLD_SIZE"]) // local)
    if SLURMEnvironment.detect():
        nodes = int(env.get("SLURM_NNODES", "1"))
        return Processes(int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]) // nodes, nodes)
    return Processes(int(env.get("LOCAL_RANK", "0")) if devices > 1 else 0, devices)


def gathered(value: Any) -> list[Any]:
    """A plain value of every process, in the order of their ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def anyone(mine: bool, device: torch.device) -> bool:
    """Whether any process says yes; all of them hear the same."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return mine
    votes = torch.tensor(int(mine), device=device)
    distributed.all_reduce(votes, distributed.ReduceOp.MAX)
    return bool(votes)
