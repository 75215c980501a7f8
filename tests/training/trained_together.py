"""One training by several processes, each of which keeps what it found."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lib.errors import BadInputError
from lib.inference.model import new_network
from lib.settings import Settings
from lib.training.decoded import Case
from lib.training.distributed import Share, joined
from lib.training.fit import FitResult, fit
from tests.training.killed_training import CONTEXT

_CPU = torch.device("cpu")


def fit_together(
    world: int,
    training: Sequence[Case],
    validation: Sequence[Case],
    settings: Settings,
    folder: Path,
    lost_by_others: int = 0,
) -> list[FitResult]:
    """What each process has at the end, the first one's first; the others lack so many training cases."""
    meeting = f"file://{folder / 'meeting'}"
    arguments = (validation, settings, folder)
    processes = [
        CONTEXT.Process(target=_fit, args=(rank, world, meeting, training[lost_by_others if rank else 0 :], *arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    refusals = [path.read_text() for path in folder.glob("refused_*")]
    assert not refusals, refusals
    assert all(process.exitcode == 0 for process in processes)
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(world)]


def _fit(
    rank: int,
    world: int,
    meeting: str,
    training: Sequence[Case],
    validation: Sequence[Case],
    settings: Settings,
    folder: Path,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # all of them start with the first one's weights
    network = new_network(settings).to(memory_format=torch.channels_last)
    with joined(_CPU, rank, world, meeting) as part:
        assert part == Share(rank, world, rank)
        try:
            result = fit(network, training, validation, settings, folder, precision="float32")
        except BadInputError as error:
            (folder / f"refused_{rank}").write_text(str(error))
            raise
    torch.save(result, folder / f"result_{rank}.pt")
