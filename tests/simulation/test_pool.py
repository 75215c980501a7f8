"""The pool of phantom patients: the same from the same seed, with the shares that the table says, written once."""

import json
import re
from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from lib.errors import BadInputError, NotFoundError
from lib.simulation.kinds import KIND_NAMES, KINDS, Grid
from lib.simulation.pool import (
    allotted,
    draw_pool,
    draw_test_set,
    image_file,
    read_pool,
    truth_file,
    write_pool,
)
from lib.volume import same_geometry
from lib.volume_io import read_image, read_label

TINY = Grid(size=32, slices=6, slice_mm=34.0)


@pytest.fixture(scope="module")
def cases():
    return draw_pool(5, 400)


# --- drawing ---


def test_the_same_seed_gives_the_same_pool(cases):
    assert draw_pool(5, 400) == cases
    assert draw_pool(6, 400) != cases
    assert draw_pool(5, 2)[0].phantom() == draw_pool(5, 2)[0].phantom()


def test_kinds_have_their_shares_of_the_patients(cases):
    firsts = Counter(case.patient_kind for case in cases if case.series == 0)
    for kind in KINDS:
        assert abs(firsts[kind.name] - 400 * kind.share) <= 1
    assert sum(kind.share for kind in KINDS) == pytest.approx(1)
    rare = [kind.share for kind in KINDS if kind.name != "ordinary"]
    assert max(rare) < 0.1


@pytest.mark.parametrize("patients", [1, 5, 6, 7, 30, 31, 1000])
def test_every_patient_is_of_a_kind_and_no_kind_is_left_out_where_there_are_enough(patients):
    counts = allotted(patients)
    assert sum(counts) == patients
    assert (min(counts) > 0) == (patients >= len(KINDS))


def test_patients_have_about_1_4_series_with_names_that_tell_them(cases):
    assert len(cases) / 400 == pytest.approx(1.4, abs=0.03)
    assert len({case.image_id for case in cases}) == len(cases)
    for case in cases:
        assert re.search(r"^([pt]\d+)_", case.image_id).group(1) == case.patient  # as `training.patient_pattern` may
        assert case.phase in case.image_id
    order = [patient for patient, _ in groupby(cases, lambda case: case.patient)]
    assert len(order) == len(set(order)) == 400


def test_some_patients_of_the_common_kind_have_a_native_series_too(cases):
    native = [case for case in cases if case.kind == "native"]
    assert {case.patient_kind for case in native} == {"ordinary", "native"}
    assert all(case.phase == "native" for case in native)
    assert 0.03 < len(native) / len(cases) < 0.1


def test_no_test_patient_is_in_a_pool(cases):
    tests = draw_test_set(5, 60)
    assert {case.seed % 2 for case in cases} == {0}
    assert {case.seed % 2 for case in tests} == {1}
    assert not {case.patient for case in cases} & {case.patient for case in tests}
    assert len({case.seed for case in tests}) == 60


def test_the_kinds_take_turns_in_a_test_set():
    tests = draw_test_set(5, 13)
    assert tuple(case.kind for case in tests) == (*KIND_NAMES, *KIND_NAMES, KIND_NAMES[0])
    assert all(case.lesions > 0 for case in tests)
    assert draw_test_set(5, 8) == tests[:8]
    assert draw_test_set(6, 8) != tests[:8]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: draw_pool(-1, 5), "the seed must be 0 or more, not -1"),
        (lambda: draw_pool(1, 0), "there must be at least 1 of the patients, not 0"),
        (lambda: draw_test_set(1, 0), "there must be at least 1 of the test cases, not 0"),
        (lambda: draw_test_set(1, 5), "a test set needs a case of each of the 6 kinds, not 5 cases"),
    ],
    ids=["seed", "patients", "no-test", "too-few"],
)
def test_what_cannot_be_drawn(draw, message):
    with pytest.raises(BadInputError, match=f"^{message}$"):
        draw()


# --- writing ---


def test_a_written_pool_tells_what_its_labels_hold(tmp_path):
    cases, done = draw_pool(3, 2, TINY), []
    write_pool(tmp_path, cases, lambda: done.append(1))
    assert len(done) == len(cases)
    told = read_pool(tmp_path)
    assert list(told) == [case.image_id for case in cases]
    for case in cases:
        image, truth = (
            read_image(image_file(tmp_path, case.image_id)),
            read_label(truth_file(tmp_path, case.image_id)),
        )
        assert same_geometry(image, truth)
        entry = told[case.image_id]
        assert (entry["kind"], entry["patient"], entry["phase"]) == (case.kind, case.patient, case.phase)
        assert entry["liver_ml"] == pytest.approx((truth.array > 0).sum() * truth.voxel_ml, abs=0.1)
        assert entry["tumor_ml"] == pytest.approx((truth.array == 2).sum() * truth.voxel_ml, abs=0.01)
        assert (entry["lesions"] > 0) == (truth.array == 2).any()


def test_an_interrupted_pool_is_gone_on_with(tmp_path):
    cases = draw_test_set(3, 6, TINY)[:2]

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pool(tmp_path, cases, stop)
    with pytest.raises(NotFoundError, match="holds no complete pool"):
        read_pool(tmp_path)
    first = image_file(tmp_path, cases[0].image_id)
    assert [first] == list(first.parent.iterdir())
    before = first.stat()
    write_pool(tmp_path, cases)
    told = read_pool(tmp_path)
    assert first.stat().st_ino == before.st_ino  # kept
    assert len(told) == 2

    lost = truth_file(tmp_path, cases[1].image_id)
    label = read_label(lost).array.copy()
    lost.unlink()
    write_pool(tmp_path, cases)
    np.testing.assert_array_equal(read_label(lost).array, label)
    assert read_pool(tmp_path) == told
    assert first.stat().st_ino == before.st_ino


def test_another_pool_is_not_mixed_in(tmp_path):
    cases = draw_pool(3, 1, TINY)
    write_pool(tmp_path, cases)
    for other in (draw_pool(4, 1, TINY), draw_pool(3, 1, Grid(size=40, slices=6, slice_mm=34.0)), []):
        with pytest.raises(BadInputError, match="holds a pool of another seed, size or version; choose another folder"):
            write_pool(tmp_path, other)
    assert list(read_pool(tmp_path)) == [case.image_id for case in cases]
    (tmp_path / "pool.json").unlink()
    with pytest.raises(BadInputError, match=r"holds images, but no pool\.json; choose another folder"):
        write_pool(tmp_path, cases)


def test_a_pool_without_figures_is_not_complete(tmp_path):
    with pytest.raises(NotFoundError, match="holds no complete pool; write it with write_pool"):
        read_pool(tmp_path)
    (tmp_path / "pool.json").write_text(json.dumps({"cases": {"p000_portal": {"kind": "small"}}}))
    with pytest.raises(NotFoundError):
        read_pool(tmp_path)
