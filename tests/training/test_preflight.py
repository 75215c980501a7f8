"""What is said of a training before it starts, and what keeps it from starting."""

import json
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.errors import BadInputError
from lib.settings import Settings
from lib.store.inspection import inspect_all
from lib.store.store import Store
from lib.training import preflight as module
from lib.training.cache import open_cache
from lib.training.cases import CaseFiles, find_cases
from lib.training.estimates import Memory, weight_bytes
from lib.training.preflight import check_cases, check_ledger
from lib.training.sides import with_sides
from lib.volume import Volume
from lib.volume_io import read_label, write_label

CPU = torch.device("cpu")
VOXEL_ML = 0.016  # 2 x 2 x 4 mm


@pytest.fixture
def files(studies):
    """Three training cases, one of them without a tumor, and one for validation."""
    sides = {"case_0": "training", "case_1": "validation", "case_2": "training", "case_3": "training"}
    return [
        CaseFiles(path, studies / "labels" / "final" / path.name, sides[path.name.removesuffix(".nii.gz")])
        for path in sorted(studies.glob("*.nii.gz"))
    ]


@pytest.fixture
def check(tiny, tmp_path):
    """Runs `check_cases`; keyword arguments change the recipe."""

    def run(files, others=None, **recipe):
        return check_cases(files, tiny(others, **recipe), device=CPU, cache_folder=tmp_path / "not" / "yet")

    return run


def refused(function, *arguments, **options):
    with pytest.raises(BadInputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def of_patients(files, count):
    """The files as if they were of so many patients."""
    return [replace(case, patient=f"p{number % count}") for number, case in enumerate(files)]


def test_what_is_known_of_the_cases(check, files, tmp_path):
    report = check(files)
    assert [(case.name, case.side) for case in report.cases] == [
        ("case_0", "training"), ("case_2", "training"), ("case_3", "training"), ("case_1", "validation"),
    ]  # fmt: skip
    for case in report.cases:
        label = read_label(next(one for one in files if one.name == case.name).label).array
        assert case.voxels == {"liver": (label == 1).sum(), "tumor": (label == 2).sum()}
        assert case.shape == (10, 48, 40)
        assert case.voxel_ml == pytest.approx(VOXEL_ML)
    assert report.left_out == {}
    assert report.usable(files) == files
    assert list(tmp_path.iterdir()) == []


def test_decoded_cases_take_what_was_said(check, files, tiny, tmp_path):
    report = check(files)
    weights = weight_bytes(tiny())
    with open_cache(tmp_path / "not" / "yet", 3, 1e9) as cache:
        size = sum(3 * cache.case(case).image[:].size for case in files)
        assert report.disk.least <= size + weights <= report.disk.most
        again = check(files)  # what is decoded takes no room any more
        assert again.disk.least == again.disk.most == weights


def test_more_than_the_cache_may_hold_is_refused(check, files):
    message = (
        "the decoded cases of this training take 5.8e-05 GB, and training.cache_gb allows 1e-05; raise it, or exclude "
        "images"
    )
    assert refused(check, files, cache_gb=1e-5) == message


def test_labels_that_the_ledger_has_counted_are_not_read(check, files, tmp_path, monkeypatch):
    exact = check(files)
    counted = {case.name: case.voxels for case in exact.cases}
    known = [replace(case, voxels={**counted[case.name], "other": 1}) for case in files]
    monkeypatch.setattr(module, "checked_label", None)
    report = check(known)
    assert {case.name: case.voxels for case in report.cases} == counted
    assert report.disk.least <= exact.disk.least <= report.disk.most
    assert " to " in report.as_text().splitlines()[3]


def test_counts_that_lack_a_class_are_not_trusted(check, files):
    report = check([replace(case, voxels={"liver": 5}) for case in files])
    assert report == replace(check(files), duration=report.duration, memory=report.memory, disk=report.disk)


def test_it_is_shown_as_a_table_and_kept_as_json(check, files, tmp_path):
    report = check(of_patients(files, 2), max_epochs=5)
    ml = {
        side: [
            f"{sum(case.voxels[name] for case in report.cases if case.side == side) * VOXEL_ML:.1f}"
            for name in ("liver", "tumor")
        ]
        for side in ("training", "validation")
    }
    lines = report.as_text().splitlines()
    assert lines[0].split() == ["cases", "with", "liver", "liver", "ml", "with", "tumor", "tumor", "ml"]
    assert lines[1].split() == ["training", "3", "3", ml["training"][0], "2", ml["training"][1]]
    assert lines[2].split() == ["validation", "1", "1", ml["validation"][0], "1", ml["validation"][1]]
    assert [line.split(":")[0] for line in lines[3:]] == ["disk", "memory", "time", "warning"]
    assert "for 5 epochs of 6 steps, " in lines[5]  # 3 cases with 8 slices each, 4 of them a step
    report.save(tmp_path / "preflight.json")
    assert json.loads((tmp_path / "preflight.json").read_text()) == report.as_dict()


def test_few_patients_are_cross_validated_and_that_is_said(check, files):
    report = check(files, cross_validate_below=5)
    assert report.duration.networks == 3
    assert 0 < report.duration.cross_validation < report.duration.total
    assert re.fullmatch(
        "4 patients are labelled, too few for validation cases alone to tell how good the new model is: "
        r"cross-validation trains 3 more networks, each without some of them, in (less than two|about \d+) minutes; "
        "label more",
        report.warnings[0],
    )
    assert not any("the score" in warning for warning in report.warnings)
    assert " of it for 3 networks of the cross-validation\n" in report.as_text()
    # Patients count, not cases; and one alone can't be left out.
    assert check(files, cross_validate_below=4).duration.networks == 0
    assert check(of_patients(files, 2), cross_validate_below=3, validation_fraction=0).duration.networks == 2


def test_a_broken_case_is_left_out_and_named(check, files, studies, tmp_path):
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    five = read_label(files[0].label)
    write_label(tmp_path / "five.nii.gz", Volume(five.array * np.uint8(5), five.affine))
    write_label(tmp_path / "short.nii.gz", Volume(five.array[..., :9], five.affine))
    cut = (files[0].label).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(cut[: len(cut) // 2])
    broken = [
        CaseFiles(tmp_path / "empty.nii.gz", files[0].label),
        CaseFiles(tmp_path / "gone.nii.gz", files[0].label),
        replace(files[1], label=tmp_path / "five.nii.gz"),
        replace(files[2], label=tmp_path / "short.nii.gz"),
        replace(files[3], label=tmp_path / "cut.nii.gz"),
    ]
    good = replace(files[0], side=None)
    report = check([good, *broken])
    assert report.left_out == {
        "empty": "empty.nii.gz: the file is empty",
        "gone": "gone.nii.gz: there is no such file",
        "case_1": "case_1: the label holds 10, but only 0 to 2 are classes",
        "case_2": "case_2: label (40, 48, 9) and image (40, 48, 10) do not lie on one grid",
        "case_3": "cut.nii.gz: not a readable .nii.gz file (truncated or damaged); copy or export it again",
    }
    assert report.usable([good, *broken]) == [good]
    assert [(case.name, case.side) for case in report.cases] == [("case_0", "training")]
    assert "left out: empty: empty.nii.gz: the file is empty" in report.as_text()
    assert refused(check, broken[:1]) == (
        "the only labelled case 'empty' can't be used: empty.nii.gz: the file is empty"
    )
    assert refused(check, broken[:3]) == (
        "none of the 3 labelled cases can be used: empty.nii.gz: the file is empty (and 2 more)"
    )


def test_a_grid_that_differs_is_seen_without_reading_the_label(check, files, tmp_path):
    label = read_label(files[0].label)
    write_label(tmp_path / "short.nii.gz", Volume(label.array[..., :9], label.affine))
    moved = replace(files[0], label=tmp_path / "short.nii.gz", voxels={"liver": 9, "tumor": 9})
    assert list(check([moved, *files[1:]]).left_out) == ["case_0"]


def test_no_case(check):
    assert refused(check, []) == (
        "there are no labelled cases to train on; submit at least one corrected segmentation first"
    )


def test_a_class_that_nobody_labelled(check, files, make_files, tmp_path):
    healthy = files[3:]
    assert refused(check, healthy) == (
        "no labelled case shows a tumor, so tumors can't be learned; label at least one, or let the training paint "
        "some (synthetic_tumors.probability in app.yaml)"
    )
    empty = make_files(tmp_path / "empty", "nothing", 0)
    label = read_label(empty.label)
    write_label(empty.label, Volume(np.zeros_like(label.array), label.affine))
    nothing = "no labelled case shows a liver or a tumor, so livers and tumors can't be learned; label at least one"
    assert refused(check, [empty]) == nothing
    synthetic = {"synthetic_tumors": {"probability": 0.5}}
    assert refused(check, [empty], synthetic) == nothing
    assert "no training case shows a tumor; synthetic ones alone will be learned" in check(healthy, synthetic).warnings


def test_a_class_on_one_side_only(check, files):
    with_tumor, without = replace(files[0], side="training"), replace(files[3], side="validation")
    assert "no validation case shows a tumor, so the score says nothing about tumors" in (
        check([with_tumor, without]).warnings
    )
    swapped = [replace(with_tumor, side="validation"), replace(without, side="training")]
    assert "no training case shows a tumor, so the new model will hardly find any" in check(swapped).warnings


def test_nothing_to_train_on(check, files, make_files, tmp_path):
    validation = [replace(case, side="validation") for case in files]
    assert refused(check, validation) == (
        "all 4 labelled cases are kept for validation, so none is left to train on; label another"
    )
    empty = replace(make_files(tmp_path / "empty", "nothing", 0), side="training")
    label = read_label(empty.label)
    write_label(empty.label, Volume(np.zeros_like(label.array), label.affine))
    assert refused(check, [empty, *validation]) == (
        "no label of the 1 training cases holds liver or tumor; nothing to learn"
    )


def test_few_patients(check, files):
    many = [*files, *(replace(case, patient=f"q{number}") for number, case in enumerate(files * 2))]
    many = [replace(case, side="validation" if number % 3 == 1 else "training") for number, case in enumerate(many)]
    assert check(many).warnings == ()
    assert check(of_patients(files, 4)).warnings == (
        "4 patients are labelled, 1 of them for validation, so the score will say little; label more",
    )
    assert check(files, patient_pattern="^(case)_").warnings[0].startswith("1 patient is labelled, 1 of them for ")


def test_no_validation(check, files):
    training = [replace(case, side="training") for case in files]
    nothing = "no case is kept for validation, so nothing will show whether the new model is better; "
    assert check(training).warnings == (f"{nothing}label more",)
    assert check(training, validation_fraction=0).warnings == (f"{nothing}set training.validation_fraction",)


def test_a_full_disk(check, files, monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda _: 100_000)
    monkeypatch.setattr(module, "weight_bytes", lambda _: 12_345_000_000)
    assert refused(check, files) == "the disk has 0 MB free and the training needs 12.3 GB; free space"


def test_a_disk_and_a_memory_that_are_perhaps_too_small(check, files, monkeypatch):
    counted = {case.name: case.voxels for case in check(files).cases}
    known = [replace(case, voxels=counted[case.name]) for case in files]
    disk = check(known).disk
    monkeypatch.setattr(module, "free_bytes", lambda _: disk.most - 1)
    monkeypatch.setattr(module, "estimate_memory", lambda *_: Memory(5_000_000_000, 4_000_000_000))
    *_, about_disk, about_memory = check(known).warnings
    assert about_disk.startswith("the disk has ")
    assert "may need" in about_disk
    assert about_memory == (
        "the training needs about 5.0 GB of memory and 4.0 GB are available; lower training.batch_size or "
        "training.patch_size"
    )


def test_random_numbers_go_on_as_if_nothing_had_been_checked(check, files):
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    check(files)
    assert torch.equal(torch.rand(4), expected)


# By the ledger alone


@pytest.fixture
def store(tmp_path, make_files):
    """Makes a store whose cases have tumors or not, each label taken in."""
    opened = []

    def make(*tumors):
        for number, tumor in enumerate(tumors):
            make_files(tmp_path / "livers", f"case_{number}", number, tumor=tumor)
        made = Store(tmp_path / "livers", Settings())
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


def test_the_ledger_gives_sides_patients_and_voxels(store, check):
    made = store(True, False)
    made.rescan()
    cases = find_cases(with_sides(made, made.datalist(), made.settings, 0.5))
    for case in cases:
        label = read_label(case.label).array
        assert case.voxels == {"liver": (label == 1).sum(), "tumor": (label == 2).sum()}
    assert len({case.patient for case in cases}) == 2


def test_at_once_a_training_without_tumors_is_refused(store, tmp_path):
    made = store(False, False)
    check_ledger(made, made.settings, cache_folder=tmp_path)  # the labels are not read yet: nothing is known
    made.rescan()
    assert refused(check_ledger, made, made.settings, cache_folder=tmp_path) == (
        "no labelled case shows a tumor, so tumors can't be learned; label at least one, or let the training paint "
        "some (synthetic_tumors.probability in app.yaml)"
    )
    painted = Settings(synthetic_tumors={"probability": 0.5})
    check_ledger(made, painted, cache_folder=tmp_path)


def test_at_once_a_full_disk_is_refused(store, tmp_path, monkeypatch):
    made = store(True)
    made.rescan()
    inspect_all(made.ledger, made.layout, threading.Event())
    check_ledger(made, made.settings, cache_folder=tmp_path / "not" / "yet")
    monkeypatch.setattr(module, "free_bytes", lambda _: 10)
    assert refused(check_ledger, made, made.settings, cache_folder=tmp_path / "not" / "yet").startswith(
        "the disk has 0 MB free and"
    )


def test_at_once_labels_that_fit_no_image_are_refused(store, tmp_path):
    made = store(True)
    label = tmp_path / "livers" / "labels" / "final" / "case_0.nii.gz"
    label.write_bytes(b"no label")
    made.rescan()
    assert refused(check_ledger, made, made.settings, cache_folder=tmp_path) == (
        "none of the labelled images can be trained on: scripts/ledger.py check says why"
    )
