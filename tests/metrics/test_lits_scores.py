"""Scores against a slow, dense implementation of the challenge's rules, written apart from ours."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage

from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.metrics.lesions import Detection
from lib.metrics.lits import MISSING, evaluate_case, summarize

LARGE = 9001
KEYS = ("dice", "jaccard", "voe", "rvd", "assd", "rmsd", "msd")
NOTHING = dict(zip(KEYS, (0, 0, 1, LARGE, LARGE, LARGE, LARGE), strict=True))


def naive_surface(mask):
    return mask ^ ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 2))


def naive_region(reference, prediction, spacing):
    if not reference.any() or not prediction.any():
        return dict(NOTHING)
    r, p, both = reference.sum(), prediction.sum(), (reference & prediction).sum()
    surface_r, surface_p = naive_surface(reference), naive_surface(prediction)
    to_r = ndimage.distance_transform_edt(~surface_r, sampling=spacing)[surface_p]
    to_p = ndimage.distance_transform_edt(~surface_p, sampling=spacing)[surface_r]
    distances = np.concatenate([to_r, to_p])
    return {
        "dice": 2 * both / (r + p),
        "jaccard": both / (r + p - both),
        "voe": 1 - both / (r + p - both),
        "rvd": (r - p) / p,
        "assd": distances.mean(),
        "rmsd": math.sqrt((distances**2).mean()),
        "msd": distances.max(),
    }


def naive_lesions(reference, prediction, threshold):
    """Detected count, lesion numbers, and the masks of the detected pairs."""
    labels_r, n_r = ndimage.label(reference)
    labels_p, n_p = ndimage.label(prediction)
    shared = np.zeros((n_p, n_r))
    for i in range(n_p):
        for j in range(n_r):
            shared[i, j] = ((labels_p == i + 1) & (labels_r == j + 1)).sum()
    groups = []  # merged reference lesions, in the order of their first lesion
    for j in range(n_r):
        best = int(np.argmax(shared[:, j])) if shared[:, j].any() else None
        for group in groups:
            if best is not None and group["best"] == best:
                group["lesions"].append(j)
                break
        else:
            groups.append({"best": best, "lesions": [j], "predictions": []})
    for i in range(n_p):
        sums = [shared[i, group["lesions"]].sum() for group in groups]
        if sums and max(sums) > 0:
            groups[int(np.argmax(sums))]["predictions"].append(i)
    matched = [group for group in groups if group["predictions"]]
    found, pairs = len(matched), []
    for group in matched:
        r = np.isin(labels_r, np.array(group["lesions"]) + 1)
        p = np.isin(labels_p, np.array(group["predictions"]) + 1)
        if (r & p).sum() / (r | p).sum() > threshold:
            pairs.append((r, p))
        else:
            found -= len(group["lesions"])
    return found, n_r, n_p, pairs


def naive_scores(cases):
    """Set scores of [(reference, prediction, spacing)]."""
    counts = {0: [0, 0, 0], 0.5: [0, 0, 0]}
    lesions, livers, dice = [], [], {"lesion": [], "liver": []}
    sums = {"lesion": [0, 0], "liver": [0, 0]}
    burdens = []
    for reference, prediction, spacing in cases:
        for threshold, total in counts.items():
            found, n_r, n_p, pairs = naive_lesions(reference == 2, prediction == 2, threshold)
            total[0] += found
            total[1] += n_p
            total[2] += n_r
        lesions += [naive_region(r, p, spacing) for r, p in pairs]
        exists = (prediction == 1).any()
        livers.append(naive_region(reference >= 1, prediction >= 1, spacing) if exists else dict(NOTHING))
        for name, low in (("lesion", 2), ("liver", 1)):
            r, p = reference >= low, prediction >= low
            if name == "liver" and not exists:
                dice[name].append(0)
                sums[name][1] += r.sum()
                continue
            both = (r & p).sum()
            dice[name].append(2 * both / (r.sum() + p.sum()) if r.any() or p.any() else 1)
            sums[name][0] += both
            sums[name][1] += r.sum() + p.sum()
        if (reference >= 1).any():
            burden = (prediction == 2).sum() / (prediction >= 1).sum() if exists else LARGE
            burdens.append((reference == 2).sum() / (reference >= 1).sum() - burden)
    result = {}
    for suffix, (found, n_p, n_r) in (("_greater_zero", counts[0]), ("", counts[0.5])):
        result[f"lesion_precision{suffix}"] = found / n_p if n_p else 0
        result[f"lesion_recall{suffix}"] = found / n_r if n_r else 0
    for name, rows in (("lesion", lesions), ("liver", livers)):
        for key in KEYS:
            result[f"{name}_{key}"] = np.mean([row[key] for row in rows]) if rows else NOTHING[key]
        result[f"{name}_dice_per_case"] = np.mean(dice[name])
        result[f"{name}_dice_global"] = 2 * sums[name][0] / sums[name][1] if sums[name][1] else None
    result["RMSE_Tumorburden"] = math.sqrt(np.mean(np.square(burdens))) if burdens else None
    result["MAXERROR_Tumorburden"] = max(burdens) if burdens else None
    return result


def random_labels(rng, shape, tumor=0.3):
    """Smooth blobs of liver with blobs of tumor in it."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    spots = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.4, 0.9))
    labels = (field > np.quantile(field, rng.uniform(0.2, 0.7))).astype(np.uint8)
    labels[(labels == 1) & (spots > np.quantile(spots, 1 - tumor))] = 2
    return labels


def disturbed(rng, labels):
    """A prediction that is near to `labels`: shifted, with some voxels wrong and some lesions lost."""
    result = np.roll(labels, rng.integers(-1, 2, size=3), axis=(0, 1, 2))
    lesions, count = ndimage.label(result == 2)
    lost = rng.permutation(np.arange(1, count + 1))[: count // 4]
    result[np.isin(lesions, lost)] = 1
    wrong = rng.random(labels.shape) < 0.05
    result[wrong] = rng.integers(0, 3, size=wrong.sum())
    return result


def assert_equal_scores(cases):
    ours = summarize([evaluate_case(reference, prediction, spacing) for reference, prediction, spacing in cases])
    expected = naive_scores(cases)
    for key, value in expected.items():
        assert ours[key] == (value if value is None else pytest.approx(value, abs=1e-9, rel=1e-9)), key
    return ours


def block(shape, *boxes):
    labels = np.zeros(shape, np.uint8)
    for value, box in boxes:
        labels[box] = value
    return labels


S = np.s_
SHAPE = (10, 12, 8)
LIVER_BOX = (1, S[1:9, 1:11, 1:7])
EMPTY = block(SHAPE)
LIVER_ONLY = block(SHAPE, LIVER_BOX)
ONE_LESION = block(SHAPE, LIVER_BOX, (2, S[2:6, 2:6, 2:5]))
TWO_LESIONS = block(SHAPE, LIVER_BOX, (2, S[2:4, 2:6, 2:5]), (2, S[5:7, 2:6, 2:5]))
BRIDGED = block(SHAPE, LIVER_BOX, (2, S[2:7, 2:6, 2:5]))
TUMOR_ONLY = block(SHAPE, (2, S[2:6, 2:7, 2:5]))
WHOLE_GRID = block(SHAPE, (1, S[:]), (2, S[0:4, 0:4, 0:4]), (2, S[7:, 9:, 5:]))
ONE_VOXEL = block(SHAPE, (1, S[4, 4, 4]))
CORNERS = block(SHAPE, LIVER_BOX, (2, S[2:4, 2:4, 2:4]), (2, S[4:6, 4:6, 4:6]))
BY_NAME = {
    "empty": EMPTY,
    "liver only": LIVER_ONLY,
    "one lesion": ONE_LESION,
    "two lesions": TWO_LESIONS,
    "bridged": BRIDGED,
    "tumor only": TUMOR_ONLY,
    "whole grid": WHOLE_GRID,
    "one voxel": ONE_VOXEL,
    "corners touch": CORNERS,
}


@pytest.mark.parametrize("seed", range(40))
def test_random_volumes_score_as_the_naive_implementation(seed):
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(3):
        reference = random_labels(rng, tuple(rng.integers(3, 14, size=3)), tumor=rng.choice([0.05, 0.3, 0.6]))
        near = rng.random() < 0.7
        prediction = disturbed(rng, reference) if near else random_labels(rng, reference.shape)
        cases.append((reference, prediction, tuple(rng.uniform(0.5, 5.0, size=3))))
    assert_equal_scores(cases)


@pytest.mark.parametrize("prediction", BY_NAME)
@pytest.mark.parametrize("reference", BY_NAME)
def test_edge_cases_score_as_the_naive_implementation(reference, prediction):
    assert_equal_scores([(BY_NAME[reference], BY_NAME[prediction], (0.7, 0.8, 5.0))])


@pytest.mark.parametrize("shape", [(1, 9, 9), (9, 9, 1), (1, 1, 9), (1, 1, 1)])
def test_thin_volumes_score_as_the_naive_implementation(shape):
    rng = np.random.default_rng(1)
    for _ in range(5):
        assert_equal_scores([(rng.integers(0, 3, shape), rng.integers(0, 3, shape), (1.0, 0.5, 3.0))])


def test_memory_layout_and_dtype_do_not_matter():
    rng = np.random.default_rng(3)
    reference = random_labels(rng, (12, 11, 9))
    prediction = disturbed(rng, reference)
    expected = evaluate_case(reference, prediction, (1.0, 2.0, 3.0))
    assert evaluate_case(np.asfortranarray(reference), prediction.astype(np.int16), (1.0, 2.0, 3.0)) == expected
    assert evaluate_case(reference.astype(np.float32), prediction[::-1][::-1], (1.0, 2.0, 3.0)) == expected


def test_background_around_the_labels_changes_only_the_original_figures():
    rng = np.random.default_rng(4)
    reference = random_labels(rng, (9, 10, 8))
    prediction = disturbed(rng, reference)
    plain = summarize([evaluate_case(reference, prediction, (1.0, 2.0, 3.0))])
    wide = summarize([evaluate_case(np.pad(reference, 5), np.pad(prediction, 5), (1.0, 2.0, 3.0))])
    assert wide["original"]["pixel_accuracy"] > plain["original"]["pixel_accuracy"]
    assert {k: v for k, v in wide.items() if k != "original"} == {k: v for k, v in plain.items() if k != "original"}


def partial(reference, *slices):
    """The reference of which these slices along the last axis were not looked at."""
    array = reference.copy()
    array[..., list(slices)] = NOT_LOOKED_AT
    return array


def test_what_nobody_looked_at_is_in_no_figure():
    rng = np.random.default_rng(5)
    reference = random_labels(rng, (9, 10, 8))
    prediction = disturbed(rng, reference)
    seen = evaluate_case(reference[..., 2:7], prediction[..., 2:7], (1.0, 2.0, 3.0)).as_dict()
    whole = evaluate_case(partial(reference, 0, 1, 7), prediction, (1.0, 2.0, 3.0)).as_dict()
    assert (seen.pop("part_looked_at"), whole.pop("part_looked_at")) == (1, 5 / 8)
    assert (seen.pop("shape"), whole.pop("shape")) == ([9, 10, 5], [9, 10, 8])
    assert whole == seen


def test_a_lesion_that_nobody_looked_at_is_neither_missed_nor_false():
    reference = partial(TWO_LESIONS, 0, 1, 2, 3)
    scores = summarize([evaluate_case(reference, TWO_LESIONS, (1, 1, 1))])
    assert (scores["lesion_recall"], scores["lesion_precision"]) == (1, 1)
    reference = partial(LIVER_ONLY, 2, 3, 4)
    assert evaluate_case(reference, TWO_LESIONS, (1, 1, 1)).detection[0] == Detection()


def test_perfect_prediction():
    scores = summarize([evaluate_case(TWO_LESIONS, TWO_LESIONS, (1, 1, 1))])
    for key in ("lesion_precision", "lesion_recall", "lesion_dice", "liver_dice_per_case", "lesion_dice_global"):
        assert scores[key] == 1
    for key in ("liver_assd", "liver_rmsd", "liver_msd", "lesion_rvd", "lesion_voe", "RMSE_Tumorburden"):
        assert scores[key] == 0


def test_no_liver_predicted_gets_the_stand_ins_although_there_is_tumor():
    case = evaluate_case(ONE_LESION, TUMOR_ONLY, (1, 1, 1)).as_dict()
    assert case["liver_dice_per_case"] == 0
    assert [case[f"liver_{key}"] for key in KEYS] == [0, 0, 1, LARGE, LARGE, LARGE, LARGE]
    assert case["lesion_dice_per_case"] > 0.5
    assert case["tumor_burden_prediction"] is None
    assert case["tumor_burden_difference"] == pytest.approx(48 / 480 - LARGE)


def test_nothing_detected_gets_the_stand_ins_in_the_set_and_null_in_the_case():
    case = evaluate_case(ONE_LESION, LIVER_ONLY, (1, 1, 1))
    scores = summarize([case])
    assert [scores[f"lesion_{key}"] for key in KEYS] == [0, 0, 1, LARGE, LARGE, LARGE, LARGE]
    assert case.as_dict()["lesion_dice"] is None


def test_global_dice_is_null_without_any_lesion():
    scores = summarize([evaluate_case(LIVER_ONLY, LIVER_ONLY, (1, 1, 1))])
    assert scores["lesion_dice_global"] is None
    assert scores["lesion_dice_per_case"] == 1


def test_tumor_burden_is_null_without_a_reference_liver_and_skipped_in_the_set():
    empty, full = (evaluate_case(reference, ONE_LESION, (1, 1, 1)) for reference in (EMPTY, LIVER_ONLY))
    assert empty.as_dict()["tumor_burden_difference"] is None
    assert summarize([empty])["RMSE_Tumorburden"] is None
    assert summarize([empty, full])["MAXERROR_Tumorburden"] == pytest.approx(-0.1)
    assert summarize([empty, full])["MAXABSERROR_Tumorburden"] == pytest.approx(0.1)


def test_relative_volume_difference_has_both_signs():
    small = block(SHAPE, (1, S[1:9, 1:11, 1:4]))
    scores = summarize([evaluate_case(LIVER_ONLY, small, (1, 1, 1))])
    assert scores["liver_rvd"] == scores["liver_rvd_official"] == pytest.approx(1.0)
    assert scores["liver_rvd_usual"] == pytest.approx(-0.5)


def test_volumes_are_in_milliliters():
    case = evaluate_case(ONE_LESION, EMPTY, (2.0, 5.0, 10.0)).as_dict()
    assert case["liver_ml_reference"] == pytest.approx(48.0)
    assert case["lesion_ml_reference"] == pytest.approx(4.8)
    assert case["lesion_ml_prediction"] == 0


def test_case_lists_its_matched_lesions():
    lesions = evaluate_case(TWO_LESIONS, BRIDGED, (1, 1, 1)).as_dict()["lesions"]
    assert [(lesion["reference"], lesion["prediction"], lesion["detected"]) for lesion in lesions] == [
        ([1, 2], [1], True)
    ]
    assert lesions[0]["iou"] == pytest.approx(0.8)


def test_json_ready():
    cases = [evaluate_case(BY_NAME[name], BRIDGED, (1, 1, 1)) for name in BY_NAME]
    json.dumps([summarize(cases), [case.as_dict() for case in cases]], allow_nan=False)


def test_missing_scores_are_the_challenge_stand_ins():
    assert MISSING.named("liver")["liver_rvd_official"] == LARGE


@pytest.mark.parametrize(
    ("reference", "prediction", "spacing", "message"),
    [
        (EMPTY, EMPTY[1:], (1, 1, 1), r"x: reference \(10, 12, 8\) and prediction \(9, 12, 8\) must be 3D"),
        (EMPTY[0], EMPTY[0], (1, 1, 1), "must be 3D"),
        (EMPTY, EMPTY + 3, (1, 1, 1), r"x, prediction: holds the values 3; expected only 0 \(background\)"),
        (EMPTY - 1.5, EMPTY, (1, 1, 1), "x, reference: holds the values -1.5; expected only"),
        (EMPTY, EMPTY, (1, 0, 1), r"x: the spacing must be three positive numbers in mm, not \(1, 0, 1\)"),
        (EMPTY, EMPTY, (1, 1), "three positive numbers"),
        (EMPTY + 255, EMPTY, (1, 1, 1), "x, reference: nobody looked at any slice, it holds 255 only; leave it out"),
        (partial(EMPTY + 3, 0), EMPTY, (1, 1, 1), r"x, reference: holds the values 3; expected only 0"),
        (EMPTY, partial(EMPTY, 0), (1, 1, 1), r"x, prediction: holds the values 255; expected only 0"),
    ],
)
def test_bad_input_is_refused(reference, prediction, spacing, message):
    with pytest.raises(BadInputError, match=message):
        evaluate_case(reference, prediction, spacing, "x")


def test_no_cases_is_an_error():
    with pytest.raises(BadInputError, match="no cases to summarize"):
        summarize([])
