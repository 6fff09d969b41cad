"""The processes of one training: which of them this is, and what they tell each other. torchrun starts them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed

from gbif_platform.errors import PlatformError

T = TypeVar("T")


class RanksError(PlatformError):
    """The processes or devices that the model asks for are not there."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of one training.

    Attributes:
        rank: from 0, over all machines; 0 writes and reports.
        world: processes on all machines.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def once(self, action: Callable[[], T]) -> T:
        """What `action` gives in the first process, in all of them. All must call it."""
        if self.world == 1:
            return action()
        value = [action() if self.first else None]
        torch.distributed.broadcast_object_list(value, src=0, device=torch.device("cpu"))
        return value[0]  # type: ignore[return-value]


@contextmanager
def joined(devices: int, num_nodes: int) -> Iterator[Ranks]:
    """This process among `devices` times `num_nodes` that train together, connected while the block lasts.

    Raises:
        RanksError: torchrun did not start as many, or the machine has fewer GPUs.
    """
    started = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if started != devices * num_nodes:
        raise RanksError(
            f"devices: {devices} and num_nodes: {num_nodes} need {devices * num_nodes} processes; here are {started}",
            "call gbif_platform.training.process.train_in_child, which starts them, or torchrun (docs/training.md)",
        )
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise RanksError(
            f"devices: {devices}, but this machine has {torch.cuda.device_count()} GPUs", "lower devices of the model"
        )
    if started == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group()  # gloo for the CPU, NCCL for GPUs; Lightning takes it as it is
    yield Ranks(torch.distributed.get_rank(), started)
    # After an error the others may be waiting for this process, and so would it for them: it must end as it is.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
