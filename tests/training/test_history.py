import numpy as np
from PIL import Image

from lib.training.history import History, as_table, draw_curves, sentence

BEFORE = {
    "epoch": 0, "train_loss": None, "validation_loss": 1.9, "dice_liver": 0.1, "dice_tumor": None,
    "three_class_dice": 0.3, "mean_iou": 0.2, "accuracy": 0.5, "learning_rate": 1e-4, "seconds": 2.0,
}  # fmt: skip
AFTER = BEFORE | {"epoch": 1, "train_loss": 1.5, "validation_loss": 1.2, "dice_tumor": 0.25, "seconds": 10.0}


def test_each_epoch_is_written_at_once(tmp_path, read_history):
    history = History(tmp_path)
    history.add(BEFORE)
    assert read_history(tmp_path / "history.csv") == [BEFORE]
    size = Image.open(tmp_path / "curves.png").size
    history.add(AFTER)
    assert read_history(tmp_path / "history.csv") == [BEFORE, AFTER]
    assert size == (1400, 800)
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "curves.png"}


def test_columns_that_come_later(tmp_path, read_history):
    history = History(tmp_path)
    history.add({"epoch": 0, "learning_rate": 1e-4})
    history.add({"epoch": 1, "train_loss": 2.0, "learning_rate": 1e-4})
    assert read_history(tmp_path / "history.csv")[0] == {"epoch": 0, "learning_rate": 1e-4, "train_loss": None}


def test_curves_show_what_was_recorded():
    figure = draw_curves([BEFORE, AFTER])
    loss, dice, iou, accuracy, rate = figure.axes[:5]
    assert {line.get_label() for line in dice.lines} == {"Dice liver", "Dice tumor"}
    assert {line.get_label() for line in iou.lines} == {"3-class Dice", "mean IoU"}
    train, validation = loss.lines
    assert (list(train.get_xdata()), list(train.get_ydata())) == ([1], [1.5])
    np.testing.assert_allclose(validation.get_ydata(), [1.9, 1.2])
    assert accuracy.get_title() == "Pixel accuracy"
    assert rate.get_yscale() == "log"


def test_curves_of_a_run_without_validation_or_figures():
    assert draw_curves([{"epoch": 0, "learning_rate": 1e-4, "seconds": 0.1}]).axes[0].get_title() == "Loss"


def test_a_sentence_per_epoch():
    assert sentence(BEFORE, 5) == "epoch 0/5: validation Dice liver 0.100"
    assert sentence(AFTER, 5) == "epoch 1/5: loss 1.5000, validation Dice liver 0.100, tumor 0.250, ETA 0:00:40"
    assert sentence(AFTER | {"epoch": 5, "validation_loss": None}, 5).endswith("training Dice liver 0.100, tumor 0.250")
    assert sentence({"epoch": 0, "learning_rate": 1e-4, "seconds": 0.1}, 5) == "epoch 0/5: before training"


def test_a_table_of_epochs():
    lines = as_table([BEFORE, AFTER]).splitlines()
    assert lines[0].split() == ["epoch", "0", "1"]
    assert lines[1].split() == ["train", "loss", "-", "1.5000"]
    assert lines[-1].split() == ["learning", "rate", "0.0001", "0.0001"]
    assert not any("seconds" in line for line in lines)


def test_files_are_brought_in_line_where_a_training_goes_on(tmp_path, read_history):
    History(tmp_path, [BEFORE]).add(AFTER | {"dice_tumor": 0.5})  # was not kept
    history = History(tmp_path, [BEFORE])
    assert read_history(tmp_path / "history.csv") == [BEFORE]
    history.add(AFTER)
    assert read_history(tmp_path / "history.csv") == history.rows == [BEFORE, AFTER]


def test_curves_that_nobody_looks_at_are_not_drawn(tmp_path, read_history):
    history = History(tmp_path, draw=False)
    history.add(BEFORE)
    assert read_history(tmp_path / "history.csv") == [BEFORE]
    assert not (tmp_path / "curves.png").exists()
