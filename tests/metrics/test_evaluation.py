import numpy as np
import pytest

from lib.errors import BadInputError
from lib.metrics.evaluation import Options, evaluate_pair, evaluate_pairs
from lib.metrics.folders import Pair
from lib.volume import Volume
from lib.volume_io import write_image, write_label

AFFINE = np.diag([-0.8, -0.8, 5.0, 1.0])


def labels(seed=0, shape=(16, 15, 6)):
    array = np.zeros(shape, np.uint8)
    array[3:12, 3:12, 1:5] = 1
    array[5 + seed : 8, 5:8, 2:4] = 2
    return array


def write_pair(folder, name="a", prediction=None, affine=AFFINE):
    pair = Pair(name, folder / "r" / f"{name}.nii", folder / "p" / f"{name}.nii.gz")
    write_label(pair.reference, Volume(labels(), AFFINE))
    write_label(pair.prediction, Volume(labels(1) if prediction is None else prediction, affine))
    return pair


def test_spacing_comes_from_the_file(tmp_path):
    evaluated = evaluate_pair(write_pair(tmp_path), Options())
    assert evaluated.result.spacing == pytest.approx((0.8, 0.8, 5.0))
    assert evaluated.result.name == "a"
    assert evaluated.pictures == ()


@pytest.mark.parametrize("workers", [1, 2, None])
def test_any_number_of_processes_gives_the_same(tmp_path, workers):
    pairs = [write_pair(tmp_path, name) for name in "abc"]
    results = {one.pair.name: one.result for one in evaluate_pairs(pairs, Options(), workers)}
    assert results == {pair.name: evaluate_pair(pair, Options()).result for pair in pairs}


def test_another_shape_names_file_and_both_shapes(tmp_path):
    pair = write_pair(tmp_path, prediction=labels()[1:])
    with pytest.raises(
        BadInputError, match=r"p/a\.nii\.gz: its shape \(15, 15, 6\) differs from the shape \(16, 15, 6\)"
    ):
        evaluate_pair(pair, Options())


def test_another_affine_is_refused_unless_told_to_ignore_it(tmp_path):
    pair = write_pair(tmp_path, affine=np.diag([0.8, -0.8, 5.0, 1.0]))
    with pytest.raises(BadInputError, match=r"p/a\.nii\.gz: its affine puts voxels up to 24\.00 mm away"):
        evaluate_pair(pair, Options())
    assert evaluate_pair(pair, Options(ignore_affine=True)).result.liver.dice == 1


def test_rounded_affines_are_the_same(tmp_path):
    affine = AFFINE + 1e-4
    affine[3] = 0, 0, 0, 1
    evaluate_pair(write_pair(tmp_path, affine=affine), Options())


def test_wrong_values_name_the_file(tmp_path):
    pair = write_pair(tmp_path, prediction=labels() + 4)
    with pytest.raises(BadInputError, match=r"p/a\.nii\.gz: holds the values 4, 5, 6; expected only 0"):
        list(evaluate_pairs([pair, write_pair(tmp_path, "b")], Options(), 2))


def test_pictures_with_the_image_of_the_case(tmp_path):
    pair = write_pair(tmp_path)
    hu = np.random.default_rng(0).integers(-100, 200, (16, 15, 6)).astype(np.int16)
    write_image(tmp_path / "i" / "a.nii.gz", Volume(hu, AFFINE))
    evaluated = evaluate_pair(pair, Options(pictures=1, images=tmp_path / "i"))
    assert [title for title, _ in evaluated.pictures[0].panels] == ["Image", "Reference", "Prediction"]
    write_image(tmp_path / "i" / "a.nii.gz", Volume(hu[1:], AFFINE))
    with pytest.raises(BadInputError, match=r"the image's shape \(15, 15, 6\) differs from the shape \(16, 15, 6\)"):
        evaluate_pair(pair, Options(pictures=1, images=tmp_path / "i"))


def test_a_case_without_image_shows_its_labels(tmp_path):
    (tmp_path / "i").mkdir()
    evaluated = evaluate_pair(write_pair(tmp_path), Options(pictures=1, images=tmp_path / "i"))
    assert [title for title, _ in evaluated.pictures[0].panels] == ["Reference", "Prediction"]


def test_a_reference_of_which_only_some_slices_were_looked_at(tmp_path):
    pair, wrong = write_pair(tmp_path), labels(1)
    wrong[..., 4:] = 2
    write_label(pair.prediction, Volume(wrong, AFFINE))
    reference = labels()
    reference[..., 4:] = 255
    write_label(pair.reference, Volume(reference, AFFINE))
    (tmp_path / "i").mkdir()
    evaluated = evaluate_pair(pair, Options(pictures=6, images=tmp_path / "i"))
    assert evaluated.result.liver.dice == 1
    assert evaluated.result.as_dict()["part_looked_at"] == pytest.approx(4 / 6)
    assert {picture.number for picture in evaluated.pictures} <= {1, 2, 3, 4}
