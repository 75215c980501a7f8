"""The labelled cases of a folder with the sides that its ledger holds."""

import numpy as np
import pytest

from lib.errors import BadInputError
from lib.settings import Settings
from lib.store import images
from lib.store.store import Store
from lib.training.cases import find_cases, split_cases
from lib.training.sides import labelled_cases, with_sides
from lib.volume import Volume
from lib.volume_io import stem_of, write_image, write_label

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


@pytest.fixture
def studies(tmp_path):
    """Four patients with two labelled images each, and one image without a label."""
    for number in range(9):
        name = f"p{number // 2}_{number % 2}"
        hu = np.random.default_rng(number).integers(-900, 900, (4, 4, 4)).astype(np.int16)
        write_image(tmp_path / f"{name}.nii.gz", Volume(hu, AFFINE))
        if number < 8:
            label = np.random.default_rng(number).integers(0, 3, (4, 4, 4)).astype(np.uint8)
            write_label(tmp_path / "labels" / "final" / f"{name}.nii.gz", Volume(label, AFFINE))
    return tmp_path


def settings_with(**training):
    return Settings(training=training)


def sides_of(cases):
    return {stem_of(case["image"]): case["side"] for case in cases}


def test_images_of_one_patient_are_on_one_side_and_stay_there(studies):
    settings = Settings(training={"patient_pattern": r"^(p\d+)_"})
    store = Store(studies, settings)
    store.rescan()
    first = sides_of(with_sides(store, store.datalist(), settings, 0.4))
    assert set(first.values()) == {"training", "validation"}
    assert all(first[f"p{patient}_0"] == first[f"p{patient}_1"] for patient in range(4))
    store.labels.save("p4_0", store.layout.shown("p0_0", "final"), "final", {}, author="ann")
    for fraction in (0.9, 0.0):
        later = sides_of(with_sides(store, store.datalist(), settings, fraction))
        assert first.items() <= later.items()
        assert later.keys() - first.keys() == {"p4_0"}
    store.close()


def test_a_dicom_patient_id_comes_before_the_name(studies):
    settings = Settings()
    store = Store(studies, settings)
    store.rescan()
    names = [f"p{number // 2}_{number % 2}" for number in range(8)]
    with store.ledger.writing() as connection:
        for name in names:
            images.note_info(connection, name, {"PatientID": "one and the same"})
    assert set(sides_of(with_sides(store, store.datalist(), settings, 0.5)).values()) == {"training"}
    store.close()


def test_what_was_left_out_is_not_trained_on(studies):
    settings = settings_with(validation_fraction=0.3)
    store = Store(studies, settings)
    store.rescan()
    with store.ledger.writing() as connection:
        images.exclude(connection, "p0_0", "motion", "ann")
    store.close()
    cases = sides_of(labelled_cases(studies, settings))
    assert len(cases) == 7
    assert "p0_0" not in cases
    assert sides_of(labelled_cases(studies, settings)) == cases


def test_a_folder_without_a_ledger_is_read_by_its_names_and_gets_none(studies):
    cases = labelled_cases(studies, Settings())
    assert len(cases) == 8
    assert all("side" not in case for case in cases)
    assert not (studies / "ledger").exists()


def test_a_folder_without_a_ledger_is_divided_by_patients(studies):
    settings = settings_with(patient_pattern=r"^(p\d+)_")
    for fraction in (0.2, 0.4, 0.6, 0.8):
        sides = [
            {case.name[:2] for case in side}
            for side in split_cases(find_cases(labelled_cases(studies, settings)), fraction)
        ]
        assert all(sides)
        assert not sides[0] & sides[1]


def test_a_folder_with_nothing_to_train_on_is_told(studies):
    store = Store(studies, Settings())
    store.rescan()
    with store.ledger.writing() as connection:
        for name in images.names(connection, labelled=True):
            images.exclude(connection, name, "test", "ann")
    store.close()
    with pytest.raises(BadInputError, match="has no labelled image that is fit and not excluded"):
        labelled_cases(studies, Settings())


def test_a_patient_id_that_becomes_known_later_moves_no_case(studies):
    settings = Settings()
    store = Store(studies, settings)
    store.rescan()
    before = sides_of(with_sides(store, store.datalist(), settings, 0.5))
    with store.ledger.writing() as connection:
        for name in before:
            images.note_info(connection, name, {"PatientID": name.partition("_")[0]})
    store.labels.save("p4_0", store.layout.shown("p0_0", "final"), "final", {}, author="ann")
    after = sides_of(with_sides(store, store.datalist(), settings, 0.5))
    assert before.items() <= after.items()
    changed = settings_with(patient_pattern="^p")
    assert sides_of(with_sides(store, store.datalist(), changed, 0.9)) == after
    store.close()
