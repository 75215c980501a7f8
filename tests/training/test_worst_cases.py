import numpy as np

from lib.training.comparison import Comparison, Figures
from lib.training.gate import Compared
from lib.training.pictures import draw_case
from lib.training.worst_cases import LOST, LOWEST, WorstCases, choose
from tests.training.compared import SETTINGS, compared, label, without


def comparison(name, new, old=0.5):
    return Comparison(name, *(Figures({"liver": dice, "tumor": dice}, {}) for dice in (new, old)))


def test_the_lowest_and_the_largest_losses_are_chosen():
    cases = [comparison(f"case_{number}", 0.5 + number / 100) for number in range(9)]
    cases += [comparison("lost", 0.9, old=0.99), comparison("fell", 0.95, old=0.96)]
    chosen = choose(cases)
    assert list(chosen) == ["case_0", "case_1", "case_2", "lost", "fell"]
    assert chosen["case_0"] == "among the lowest Dice of the new model"
    assert chosen["fell"] == "among the largest losses against the published model"
    both = choose([comparison("a", 0.1), comparison("b", 0.9)])
    assert both["a"] == "among the lowest Dice of the new model and the largest losses against the published model"
    assert both["b"] == "among the lowest Dice of the new model"


def test_one_look_at_each_case_keeps_those_that_are_chosen_among_all(monkeypatch):
    monkeypatch.setattr("lib.training.worst_cases.draw_case", lambda one, _: draw_once[one.comparison.name])
    rng = np.random.default_rng(0)
    cases = [comparison(f"case_{number}", *rng.random(2).round(1)) for number in range(30)]
    drawn = draw_case(compared(without(label(), slice(3, 5))), SETTINGS)
    draw_once = {case.name: type(drawn)(case, {}, drawn.slices, False) for case in cases}
    worst = WorstCases(SETTINGS)
    for case in cases:
        worst.add(Compared(case, *[None] * 4))
        assert len(worst._drawn) <= LOWEST + LOST
    assert {one.comparison.name: one.reason for one in worst.pictures()} == choose(cases)


def test_a_case_that_can_not_be_drawn_stops_nothing(monkeypatch, caplog):
    def fail(*_):
        raise MemoryError

    worst = WorstCases(SETTINGS)
    worst.add(compared(without(label(), slice(3, 5)), name="good"))
    with monkeypatch.context() as patch:
        patch.setattr("lib.training.worst_cases.draw_case", fail)
        worst.add(compared(without(label(), slice(8, 9)), name="bad"))
    assert [one.comparison.name for one in worst.pictures()] == ["good"]
    assert "bad is not shown in the report: MemoryError" in caplog.messages


def test_a_case_segmented_as_labelled_is_not_shown():
    worst = WorstCases(SETTINGS)
    worst.add(compared(label()))
    assert worst.pictures() == []
