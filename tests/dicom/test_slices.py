"""What a slice's header must hold."""

import pytest
from pydicom.uid import ImplicitVRLittleEndian

from tests.dicom.written import ORIGIN, make_slice, message, save, stored_values, write_series


@pytest.mark.parametrize("name", ["ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "PixelData"])
def test_a_slice_without_what_it_needs(tmp_path, name):
    write_series(tmp_path)
    broken = make_slice(stored_values()[0], ORIGIN)
    delattr(broken, name)
    save(broken, tmp_path / "broken")
    assert message(tmp_path) == (
        f"/broken: lacks {name}; the file is damaged or not a CT slice: copy it again or remove it"
    )


DAMAGED = "; the header is damaged: copy the file again"
TABLE = "has a table of values instead of rescale slope and intercept; export the series with those"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"PixelSpacing": [0.7, 0]}, "40x36 pixels of 0.7x0 mm can't be; the header is damaged"),
        ({"PixelSpacing": [0.7]}, "PixelSpacing is not 2 finite numbers" + DAMAGED),
        ({"ImagePositionPatient": [0, 0]}, "ImagePositionPatient is not 3 finite numbers" + DAMAGED),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1]}, "ImageOrientationPatient is not 6 finite numbers" + DAMAGED),
        (
            {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
            "ImageOrientationPatient is not two directions of length 1 at right angles" + DAMAGED,
        ),
        ({"RescaleSlope": 0}, "RescaleSlope is 0, which makes all pixels alike; export the series again"),
        (
            {"RescaleType": "MGML"},
            "the pixels are in MGML, not in Hounsfield units; give the CT itself, not a map made of it",
        ),
        ({"ModalityLUTSequence": [make_slice(stored_values()[0], ORIGIN)]}, TABLE),
    ],
)
def test_headers_that_can_not_be(tmp_path, attributes, expected):
    save(make_slice(stored_values()[0], ORIGIN, **attributes), tmp_path / "IM1")
    assert message(tmp_path) == f"/IM1: {expected}"


@pytest.mark.parametrize(("was", "becomes"), [(b"-90.0", b"x90.0"), (b"-90.0", b"1e999")])
def test_positions_that_are_no_numbers(tmp_path, was, becomes):
    path = tmp_path / "IM1"
    patient = {"PatientName": "Doe^Jane", "PatientID": "0815"}
    save(make_slice(stored_values()[0], ORIGIN, syntax=ImplicitVRLittleEndian, **patient), path)
    path.write_bytes(path.read_bytes().replace(was, becomes))
    text = message(tmp_path)
    assert text.startswith("/IM1: ")
    assert "damaged" in text
    assert "Doe" not in text
    assert "0815" not in text
