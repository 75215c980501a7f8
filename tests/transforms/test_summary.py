import numpy as np
import pytest

from lib.errors import BadInputError
from lib.transforms.summary import centers, summarize


def test_volumes_and_lesions() -> None:
    label = np.zeros((4, 5, 6), np.uint8)
    label[:2] = 1  # 60 voxels, of which 3 become tumor
    label[0, 0, 0] = label[0, 0, 1] = 2
    label[1, 1, 2] = 2  # shares only a corner with the first

    summary = summarize(label, voxel_ml=0.5)

    assert summary["volumes_ml"] == {"liver": 28.5, "tumor": 1.5}
    assert summary["liver_with_tumor_ml"] == 30.0
    assert summary["lesion_count"] == 2
    assert summary["tumor_burden"] == pytest.approx(3 / 60)


def test_axis_order_does_not_matter() -> None:
    label = np.random.default_rng(0).integers(0, 3, (4, 5, 6), dtype=np.uint8)

    assert summarize(label, 0.1) == summarize(label.transpose(2, 0, 1)[::-1], 0.1)


def test_empty_label_has_nothing() -> None:
    summary = summarize(np.zeros((2, 3, 4), np.uint8), 1.0)

    assert summary == {
        "volumes_ml": {"liver": 0.0, "tumor": 0.0},
        "liver_with_tumor_ml": 0.0,
        "lesion_count": 0,
        "tumor_burden": 0.0,
    }


def test_other_names_are_counted() -> None:
    label = np.full((1, 1, 4), 3, np.uint8)

    assert summarize(label, 0.25, {"liver": 1, "cyst": 3})["volumes_ml"] == {"liver": 0.0, "cyst": 1.0}


def test_liver_and_tumor_are_known_by_name() -> None:
    label = np.array([[[1, 0, 2, 2, 3, 0, 3]]], np.uint8)

    summary = summarize(label, 1.0, {"vessel": 1, "Liver": 2, "lesion": 3})

    assert summary["liver_with_tumor_ml"] == 4.0
    assert summary["lesion_count"] == 2
    assert summary["tumor_burden"] == 0.5


def test_without_a_class_for_tumors_there_are_none() -> None:
    summary = summarize(np.array([[[1, 2]]], np.uint8), 1.0, {"liver": 1, "vessel": 2})

    assert (summary["liver_with_tumor_ml"], summary["lesion_count"]) == (1.0, 0)


@pytest.mark.parametrize("voxel_ml", [0, -1, float("nan"), float("inf")])
def test_voxel_volume_is_checked(voxel_ml: float) -> None:
    with pytest.raises(BadInputError, match="must be a positive number of ml"):
        summarize(np.zeros((1, 1, 1), np.uint8), voxel_ml)


def test_label_is_checked() -> None:
    with pytest.raises(BadInputError, match=r"not float64 of shape \(2, 2\)"):
        summarize(np.zeros((2, 2)), 1.0)  # type: ignore[arg-type]


def test_centers_lie_where_the_classes_do():
    label = np.zeros((9, 8, 7), np.uint8)
    label[2:5, 1:4, 5:7] = 1
    label[7, 7, 0] = 3
    names = {"liver": 1, "tumor": 2, "vessel": 3}
    assert centers(label, names) == {"liver": (3, 2, 6), "vessel": (7, 7, 0)}  # 5.5 is as near to either
    assert centers(label.transpose(2, 0, 1), names) == {"liver": (6, 3, 2), "vessel": (0, 7, 7)}
    assert centers(np.asfortranarray(label), names) == centers(label, names)
    assert centers(label, {"liver": 9}) == {}
    assert centers(np.zeros_like(label), names) == {}
