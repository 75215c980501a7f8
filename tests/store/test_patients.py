"""Whose an image is."""

import pytest

from lib.store import images
from lib.store.images import FileState
from lib.store.patients import Patients, patient_of


@pytest.mark.parametrize(
    ("case", "pattern", "patient_id", "expected"),
    [
        ("p007_arterial", "", None, "p007_arterial"),
        ("p007_arterial", r"^(p\d+)_", None, "p007"),
        ("p007_arterial", r"p\d+", None, "p007"),
        ("other", r"^(p\d+)_", None, "other"),
        ("p007_arterial", r"^(x)?", None, "p007_arterial"),
        ("p007_arterial", r"^(p\d+)_", "4711", "4711"),
    ],
)
def test_whose_a_case_is(case, pattern, patient_id, expected):
    assert patient_of(case, pattern, patient_id) == expected


def test_images_of_a_patient_have_one_key_which_does_not_tell_who_it_is(shared_ledger, undone):
    infos = {"x1": {"PatientID": "4711"}, "x2": {"PatientID": 4711}, "p7_a": {}, "p7_b": {"PatientID": ""}, "other": {}}
    images.register(undone, [(name, FileState(".nii.gz", 1, 1)) for name in infos], infos)
    patients = Patients.of(shared_ledger, undone, r"^(p\d+)_")
    keys = patients.keys(undone, [*infos, "unheard of"])
    assert keys.keys() == infos.keys()
    assert keys["x1"] == keys["x2"]
    assert keys["p7_a"] == keys["p7_b"]
    assert len(set(keys.values())) == 3
    assert not [key for key in keys.values() if "4711" in key or "p7" in key]
    assert patients.key("p7_c", None) == keys["p7_a"]
    assert Patients("", patients.salt).key("p7_a", None) != keys["p7_a"]
