"""Several processes that train one network together; alone, every function here does nothing.

Each takes its part of every batch. Sums that a loss or a figure is made of are taken over all processes, so that a
step is that of one process with the whole batch.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lib.errors import BadInputError

_Item = TypeVar("_Item")
# One process checks and decodes cases while the others wait.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Share:
    """A process's part of the work.

    Args:
        rank: its number, from 0.
        world: how many there are.
        local_rank: its number on its machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    def of(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """Every `world`-th item from the `rank`-th on."""
        return items[self.rank :: self.world]


def share() -> Share:
    """The part of this process; all of it where it works alone."""
    if not dist.is_initialized():
        return Share()
    rank = dist.get_rank()
    return Share(rank, dist.get_world_size(), int(os.environ.get("LOCAL_RANK", rank)))


@contextmanager
def joined(
    device: torch.device, rank: int | None = None, world: int | None = None, meeting: str | None = None
) -> Iterator[Share]:
    """Work together with the other processes of this training.

    Args:
        device: of this process; NCCL connects CUDA devices, gloo CPUs.
        rank: this process's number; None: from the environment, as `torchrun` sets it.
        world: how many processes; None: from the environment.
        meeting: where they find each other, such as the URL of a file that does not exist yet; None: from the
            environment.

    Raises:
        BadInputError: the environment does not say how to find the others.
    """
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=meeting,
            rank=-1 if rank is None else rank,
            world_size=-1 if world is None else world,
            timeout=_PATIENCE,
        )
    except (ValueError, RuntimeError) as error:
        msg = f"the processes of a training can't find each other: {error}; start them by torchrun"
        raise BadInputError(msg) from error
    try:
        yield share()
    finally:
        dist.destroy_process_group()


def launched_by_torchrun() -> bool:
    """Whether this process is one of several that `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def own_device(device: torch.device) -> torch.device:
    """The device of this process where `torchrun` started one for each GPU of the machine."""
    if device.type != "cuda":
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(own)
    return own


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, through which gradients flow back to each.

    `DistributedDataParallel` averages gradients over the processes; the backward pass of this sum multiplies them by
    their number, so that the average is the gradient of a loss that was made of the sums.
    """
    return _Summed.apply(tensor) if dist.is_initialized() else tensor


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return total_of(tensor)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return total_of(gradient)  # of what every process made of the sum


def total_of(tensor: Tensor) -> Tensor:
    """The sum over all processes as a new tensor, without gradients."""
    total = tensor.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total


def from_first(value: Any) -> Any:
    """What the first process has, for all of them; any object that can be pickled."""
    if not dist.is_initialized():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """Let the first process of each machine do something before the others do it, who find it done."""
    here = share()
    if here.world > 1 and here.local_rank:
        dist.barrier()
    yield
    if here.world > 1 and not here.local_rank:
        dist.barrier()
