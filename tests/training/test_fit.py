import logging

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lib.errors import ModelError
from lib.inference.model import new_network
from lib.labels import NOT_LOOKED_AT
from lib.networks.checkpoint import load_weights
from lib.training.batches import Batch
from lib.training.fit import Figures, fit, forward, validate

pytestmark = pytest.mark.usefixtures("quick_curves")
CPU = torch.device("cpu")
FIGURES = {"dice_liver", "dice_tumor", "three_class_dice", "mean_iou", "accuracy"}


def start(settings):
    torch.manual_seed(1)
    return new_network(settings).to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def trained(cases, tiny, tmp_path_factory, read_history):
    """A whole training and all that was told of it."""
    settings, folder = tiny(max_epochs=6), tmp_path_factory.mktemp("run")
    steps, rows, files = [], [], []

    def on_epoch(row):
        rows.append(row)
        files.append(sorted(path.name for path in folder.iterdir()))
        assert read_history(folder / "history.csv") == rows

    network = start(settings)
    result = fit(
        network, cases[1:], cases[:1], settings, folder, on_epoch=on_epoch, on_step=lambda *told: steps.append(told)
    )
    return settings, folder, result, steps, rows, files


def test_a_tiny_task_is_learned(trained):
    rows = trained[2].rows
    assert rows[-1]["train_loss"] < 0.5 * rows[1]["train_loss"]
    assert max(row["dice_liver"] for row in rows) > 0.9
    assert max(row["dice_liver"] for row in rows) > rows[0]["dice_liver"]


def test_history_starts_before_training_and_has_every_figure(trained):
    settings, _, result, _, rows, _ = trained
    assert result.rows == rows
    assert [row["epoch"] for row in rows] == list(range(settings.training.max_epochs + 1))
    assert rows[0]["train_loss"] is None
    assert all(set(row) >= FIGURES | {"validation_loss", "learning_rate", "seconds"} for row in rows)
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_files_are_there_after_each_epoch(trained):
    _, folder, _, _, _, files = trained
    assert all(names == ["best.pt", "curves.png", "events", "history.csv", "last.pt"] for names in files)
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == FIGURES | {"train_loss", "validation_loss", "learning_rate", "seconds"}
    assert [event.step for event in events.Scalars("validation_loss")] == list(range(7))


def test_the_best_epoch_is_kept(trained, cases):
    settings, folder, result, _, rows, _ = trained
    scores = [(row["dice_liver"] + row["dice_tumor"]) / 2 for row in rows]
    assert result.best_score == pytest.approx(max(scores))
    assert result.best_epoch == scores.index(max(scores))
    assert not result.network.training
    assert validate(result.network, cases[:1], settings).score == pytest.approx(max(scores), abs=1e-6)
    other = new_network(settings)
    assert load_weights(folder / "best.pt", other) == {"epoch": result.best_epoch}
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), result.network.parameters(), strict=True))
    assert load_weights(folder / "last.pt", other) == {"epoch": 6}


def test_every_step_is_told(trained):
    steps = trained[3]
    assert [(done, total) for done, total, _ in steps] == 6 * [(done, 6) for done in range(1, 7)]
    assert steps[5][2] == pytest.approx(trained[2].rows[1]["train_loss"])


def test_the_same_seed_gives_the_same_weights(cases, tiny, tmp_path):
    settings = tiny({"augmentation": {}}, max_epochs=1, slices_per_case=4)
    settings = settings.model_copy(
        update={"network": tiny().network.model_copy(update={"arguments": {"filters": [4] * 5}})}
    )
    first, again = (
        fit(start(settings), cases[1:], [], settings, tmp_path / name).network.state_dict() for name in "ab"
    )
    other = fit(
        start(settings), cases[1:], [],
        settings.model_copy(update={"training": settings.training.model_copy(update={"seed": 9})}), tmp_path / "c",
    ).network.state_dict()  # fmt: skip
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_stops_early_where_nothing_gets_better(cases, tiny, tmp_path):
    settings = tiny(
        max_epochs=50, slices_per_case=3, learning_rate=1e-12, minimum_learning_rate=0, early_stop_patience=2
    )
    result = fit(start(settings), cases[1:], cases[:1], settings, tmp_path)
    assert len(result.rows) - 1 == 3
    assert result.best_epoch == 0


def test_where_no_validated_slice_holds_a_label_the_last_epoch_is_kept(cases, tiny, tmp_path):
    settings = tiny(max_epochs=4, slices_per_case=2, early_stop_patience=1)
    result = fit(start(settings), cases[1:], cases[:1], settings, tmp_path)
    assert (result.best_epoch, result.best_score, len(result.rows) - 1) == (4, None, 4)


def test_the_learning_rate_falls_on_a_plateau_down_to_its_minimum(cases, tiny, tmp_path):
    settings = tiny(max_epochs=4, slices_per_case=2, learning_rate=1e-7, minimum_learning_rate=2e-8, plateau_patience=0)
    rates = [row["learning_rate"] for row in fit(start(settings), cases[1:], cases[:1], settings, tmp_path).rows]
    assert rates == pytest.approx([1e-7, 1e-7, 2e-8, 2e-8, 2e-8])


@pytest.mark.parametrize("validated", [True, False])
def test_a_training_that_diverges_ends_with_the_reason(cases, tiny, tmp_path, validated):
    settings = tiny(max_epochs=2, slices_per_case=2)
    network = start(settings)
    nn.init.constant_(next(network.parameters()), float("nan"))
    with pytest.raises(
        ModelError, match=r"^the training diverged: its loss is nan; lower training.learning_rate \(0.01\)$"
    ):
        fit(network, cases[:1], cases[1:2] if validated else [], settings, tmp_path)


def test_without_validation_the_last_epoch_counts(cases, tiny, tmp_path):
    settings = tiny(max_epochs=2, slices_per_case=4)
    result = fit(start(settings), cases[:1], [], settings, tmp_path)
    assert result.best_epoch == 2
    assert result.best_score is None
    assert set(result.rows[0]) == {"epoch", "train_loss", "validation_loss", "learning_rate", "seconds"}
    assert set(result.rows[2]) >= FIGURES
    assert result.rows[2]["validation_loss"] is None


def test_the_originals_recipe(cases, tiny, tmp_path):
    settings = tiny(
        loss="cross_entropy", patch_size=512, tumor_fraction=1, foreground_fraction=1, batch_size=1, slices_per_case=1,
        max_epochs=1, validation_fraction=0.15,
    )  # fmt: skip
    result = fit(start(settings), cases[:1], cases[1:2], settings, tmp_path)
    assert result.rows[1]["train_loss"] > 0


def test_the_log_has_our_lines_only(cases, tiny, tmp_path, caplog):
    settings = tiny(max_epochs=1, slices_per_case=16)
    with caplog.at_level(logging.INFO):
        fit(start(settings), cases[1:2], cases[:1], settings, tmp_path)
    assert {record.name for record in caplog.records} == {"lib.training.fit"}
    lines = [record.message for record in caplog.records]
    assert lines[0].startswith("epoch 0/1: validation Dice liver ")
    assert lines[1].startswith("epoch 1/1: step 1/4, loss ")
    assert lines[-1].startswith("epoch 1/1: loss ")


def test_bfloat16_trains_too(cases, tiny, tmp_path):
    settings = tiny(max_epochs=2)
    rows = fit(start(settings), cases[1:], cases[:1], settings, tmp_path, precision="bfloat16").rows
    assert rows[2]["train_loss"] < rows[1]["train_loss"]


def test_figures_add_up_over_batches_as_over_all_pixels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, 8, 8, generator=generator)
    target = torch.randint(0, 3, (6, 8, 8), generator=generator)
    whole, parts = Figures(["liver", "tumor"], CPU), Figures(["liver", "tumor"], CPU)
    whole.add(torch.tensor(1.0), logits, target)
    for part in (slice(0, 2), slice(2, 6)):
        parts.add(torch.tensor(2.0), logits[part], target[part])
    predicted = logits.argmax(1)
    for index, name in ((1, "liver"), (2, "tumor")):
        both = ((predicted == index) & (target == index)).sum()
        expected = 2 * both / ((predicted == index).sum() + (target == index).sum())
        assert parts.dice[name] == pytest.approx(float(expected))
    assert parts.dice == whole.dice
    assert parts.score == pytest.approx(sum(whole.dice.values()) / 2)
    assert parts.row()["accuracy"] == pytest.approx(float((predicted == target).float().mean()))
    assert parts.mean_loss == 2


def test_figures_count_only_what_was_looked_at():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    target = torch.randint(0, 3, (2, 8, 8), generator=generator)
    part, padded = Figures(["liver", "tumor"], CPU), Figures(["liver", "tumor"], CPU)
    part.add(torch.tensor(1.0), logits, target)
    unseen = torch.full((2, 4, 8), NOT_LOOKED_AT)
    others = torch.randn(2, 3, 4, 8, generator=generator)
    padded.add(torch.tensor(1.0), torch.cat([logits, others], 2), torch.cat([target, unseen], 1))
    assert padded.row() == pytest.approx(part.row())
    assert torch.equal(padded.counts, part.counts)


def test_figures_of_classes_that_are_nowhere():
    figures = Figures(["liver", "tumor"], CPU)
    assert (figures.row(), figures.score, figures.mean_loss) == ({}, None, 0)
    background = torch.tensor([9.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    figures.add(torch.tensor(0.1), background, torch.zeros(1, 4, 4, dtype=torch.int64))
    assert figures.dice == {"liver": None, "tumor": None}
    assert figures.score is None
    figures.add(torch.tensor(0.1), background, torch.ones(1, 4, 4, dtype=torch.int64))
    assert figures.dice == {"liver": 0, "tumor": None}
    assert figures.score == 0


def test_a_false_pixel_of_a_class_that_no_reference_holds_does_not_halve_the_score():
    figures = Figures(["liver", "tumor"], CPU)
    target = torch.ones(1, 8, 8, dtype=torch.int64)
    logits = nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    logits[0, 2, 0, 0] = 2
    figures.add(torch.tensor(0.1), logits, target)
    assert figures.dice == {"liver": pytest.approx(126 / 127), "tumor": None}
    assert figures.score == pytest.approx(126 / 127)


def test_forward_gives_loss_logits_and_whole_indices():
    batch = Batch(torch.rand(2, 3, 16, 16), torch.ones(2, 16, 16, dtype=torch.uint8))
    loss, logits, target = forward(nn.Conv2d(3, 3, 1), nn.CrossEntropyLoss(), batch, "float32")
    assert (loss.ndim, logits.shape, target.dtype) == (0, (2, 3, 16, 16), torch.int64)
