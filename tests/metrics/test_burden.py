import pytest

from lib.metrics.burden import burden_difference, burden_errors, tumor_burden


def test_tumor_burden():
    assert tumor_burden(200, 50) == 0.25
    assert tumor_burden(0, 0) is None


def test_difference_is_positive_when_tumor_was_missed():
    assert burden_difference(0.3, 0.1) == pytest.approx(0.2)
    assert burden_difference(0.25, None) == 0.25 - 9001
    assert burden_difference(None, 0.1) is None


def test_the_official_maximum_is_signed():
    errors = burden_errors([0.1, -0.5, None])
    assert errors["MAXERROR_Tumorburden"] == 0.1
    assert errors["MAXABSERROR_Tumorburden"] == 0.5
    assert errors["RMSE_Tumorburden"] == pytest.approx((0.26 / 2) ** 0.5)


def test_nothing_known():
    assert set(burden_errors([None]).values()) == {None}
