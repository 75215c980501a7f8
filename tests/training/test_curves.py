import xml.etree.ElementTree as ET

import pytest

from lib.training.curves import plots_of

SVG = "{http://www.w3.org/2000/svg}"


def row(epoch, train=None, validation=None, liver=None, tumor=None):
    figures = {"train_loss": train, "validation_loss": validation, "dice_liver": liver, "dice_tumor": tumor}
    return {"epoch": epoch, "seconds": 1.0, "learning_rate": 1e-3} | figures


ROWS = [row(0, None, 1.2, 0.1, 0.0), row(1, 0.9, 1.0, 0.6, 0.123456), row(2, 0.7, 0.8, 0.9, 0.4)]


def lines(plot):
    """Points of each curve, in the units of the drawing; y runs down."""
    root = ET.fromstring(plot.svg)
    found = []
    for group in root.iter(f"{SVG}g"):
        path = group.find(f"{SVG}path")
        if group.get("id", "").startswith("line2d_") and path is not None and "clip-path" in path.attrib:
            numbers = [float(part) for part in path.get("d").split() if part not in "ML"]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def curves(plot):
    """Without lines of the grid and marks."""
    return [points for points in lines(plot) if len({y for _, y in points}) > 1 and len({x for x, _ in points}) > 1]


def test_loss_and_dice_with_words_for_those_who_do_not_see_them():
    loss, dice = plots_of(ROWS, 1)
    assert (loss.title, dice.title) == ("Loss", "Dice")
    assert loss.text == "Loss after each epoch; at the end: training 0.700, validation 0.800"
    assert dice.text == "Dice after each epoch; at the end: liver 0.900, tumor 0.400"
    assert dice.hint == "Agreement with the labels on validation slices, which it does not learn from: 1 is perfect."


def test_the_curves_go_through_the_figures():
    _, dice = plots_of(ROWS, None)
    liver, tumor = curves(dice)
    (left, bottom), (_, middle), (right, top) = tumor[0], liver[1], liver[2]
    unit = (bottom - top) / 0.9  # of Dice 1
    assert bottom - middle == pytest.approx(0.6 * unit, abs=0.01)
    assert bottom - liver[0][1] == pytest.approx(0.1 * unit, abs=0.01)
    assert [bottom - y for _, y in tumor] == pytest.approx([0, 0.123456 * unit, 0.4 * unit], abs=0.01)
    assert [x for x, _ in liver] == pytest.approx([left, (left + right) / 2, right], abs=0.01)


def test_figures_that_are_missing_are_left_out():
    loss, _ = plots_of(ROWS, None)
    training, validation = curves(loss)
    assert (len(training), len(validation)) == (2, 3)  # before the training there is no training loss


def test_the_epoch_that_was_kept_is_marked():
    def upright(best_epoch):
        (plot,) = plots_of(ROWS, best_epoch)[1:]
        return [points[0][0] for points in lines(plot) if len({x for x, _ in points}) == 1], curves(plot)

    marked, (liver, _) = upright(1)
    assert marked == pytest.approx([liver[1][0]], abs=0.01)
    assert upright(None)[0] == []


def test_without_validation_the_slices_that_it_learns_from_are_named():
    rows = [row(1, 0.9, None, 0.5, 0.1), row(2, 0.8, None, 0.6, 0.2)]
    loss, dice = plots_of(rows, None)
    assert loss.text == "Loss after each epoch; at the end: training 0.800"
    assert dice.hint == "Agreement with the labels on slices that it learns from: 1 is perfect."


def test_nothing_to_draw():
    assert plots_of([], None) == []
    assert plots_of([row(0)], None) == []
    assert [plot.title for plot in plots_of([row(0, None, 1.0)], 0)] == ["Loss"]


def test_a_name_is_neither_markup_nor_mathematics():
    def named(name):
        rows = [{"epoch": epoch, "seconds": 1.0, f"dice_{name}": 0.5 + epoch / 10} for epoch in range(2)]
        (dice,) = plots_of(rows, None)
        assert dice.text.endswith(f"at the end: {name} 0.600")
        return [element.tag for element in ET.fromstring(dice.svg).iter()]

    odd, plain = named("a<b>&$x^2$"), named("abcdefghij")
    assert f"{SVG}b" not in odd
    assert odd.count(f"{SVG}use") == plain.count(f"{SVG}use")  # one for each character


def test_a_drawing_needs_nothing_else():
    for plot in plots_of(ROWS, 1):
        root = ET.fromstring(plot.svg)
        links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("}href")]
        assert all(link.startswith("#") for link in links)
        assert not {f"{SVG}script", f"{SVG}image", f"{SVG}foreignObject"} & {element.tag for element in root.iter()}
