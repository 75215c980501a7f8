import pytest
import torch

from lib.errors import BadInputError
from lib.inference.model import new_network
from lib.training.distributed import (
    Share,
    first_of_machine_first,
    from_first,
    joined,
    launched_by_torchrun,
    own_device,
    share,
    summed,
    total_of,
)
from lib.training.fit import fit
from tests.training.trained_together import fit_together

pytestmark = pytest.mark.usefixtures("quick_curves")
CPU = torch.device("cpu")


def test_each_takes_its_part_of_every_batch():
    batch = list(range(7))
    assert [Share(rank, 3).of(batch) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert Share().of(batch) == batch
    assert Share(1, 2).of([5]) == []


def test_alone_nothing_happens():
    tensor = torch.ones(2, requires_grad=True)
    assert share() == Share(0, 1, 0)
    assert summed(tensor) is tensor
    assert torch.equal(total_of(tensor), tensor)
    assert from_first("value") == "value"
    assert own_device(CPU) == CPU
    assert not launched_by_torchrun()
    with first_of_machine_first():
        pass


def test_two_processes_learn_as_one_with_twice_the_batch(cases, tiny, tmp_path):
    """The same loss curve, with class weights and a last batch in which one of the two has nothing to do."""
    recipe = {"max_epochs": 3, "slices_per_case": 3, "class_weights": (0.5, 1, 3), "learning_rate": 1e-3}
    torch.manual_seed(0)
    network = new_network(tiny()).to(memory_format=torch.channels_last)
    alone = fit(network, cases[1:], cases[:1], tiny(batch_size=4, **recipe), tmp_path, precision="float32")
    first, second = fit_together(2, cases[1:], cases[:1], tiny(batch_size=2, **recipe), tmp_path)
    assert len(alone.rows) == len(first.rows) == 4
    assert second.rows == []  # the first one keeps the books
    for ours, theirs in zip(first.rows, alone.rows, strict=True):
        # Not the validation loss: it is the mean over batches of its own, whose Dice depends on their size.
        for figure in ("train_loss", "dice_liver", "dice_tumor", "accuracy", "learning_rate"):
            expected = theirs[figure] and pytest.approx(theirs[figure], rel=1e-4)
            assert ours[figure] == expected, (figure, ours["epoch"])
    assert alone.rows[3]["train_loss"] < alone.rows[1]["train_loss"]
    assert first.best_epoch == second.best_epoch == alone.best_epoch
    for name, weight in alone.network.state_dict().items():
        torch.testing.assert_close(first.network.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
        assert torch.equal(first.network.state_dict()[name], second.network.state_dict()[name])


def test_processes_with_different_cases_do_not_wait_for_each_other(cases, tiny, tmp_path):
    """The second one has lost a case, as where a file goes while the first one decodes."""
    with pytest.raises(AssertionError, match="can't use the same cases as the first"):
        fit_together(2, cases[1:], cases[:1], tiny(max_epochs=1, slices_per_case=3), tmp_path, lost_by_others=1)


def test_who_can_not_find_the_others_says_so(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(BadInputError, match=r"^the processes of a training can't find each other: .*; start them by t"),
        joined(CPU),
    ):
        pass
