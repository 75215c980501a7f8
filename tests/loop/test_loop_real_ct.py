"""The fetched real CTs through the server."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from tests.loop.running_server import MODEL, open_session

pytestmark = pytest.mark.server

# Lowest liver Dice against the reference that the starter weights must reach on each image; None checks geometry only.
MINIMUM_LIVER_DICE: dict[str, float | None] = {
    "lits_117_crop": 0.90,
    "totalsegmentator_dicom": 0.94,
    "totalsegmentator_trunk": 0.84,
}


def check(answer, image, reference, minimum):
    label, expected = nib.load(answer), nib.load(image)
    assert label.shape == expected.shape
    assert np.array_equal(label.affine, expected.affine)
    assert label.get_data_dtype() == np.uint8
    found, truth = np.asarray(label.dataobj) > 0, np.asarray(nib.load(reference).dataobj) > 0
    if minimum is not None:
        dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        assert dice >= minimum, f"liver Dice {dice:.3f}"


@pytest.mark.parametrize("name", MINIMUM_LIVER_DICE)
def test_a_real_ct_is_segmented_on_its_own_grid(client, real_samples, name):
    image = real_samples / f"{name}.nii.gz"
    answer, params = client.infer(MODEL, "", {"result_extension": ".nii.gz"}, file=str(image))
    check(answer, image, real_samples / "labels_reference" / f"{name}.nii.gz", MINIMUM_LIVER_DICE[name])
    assert params["latencies"]["total"] > 0


def test_a_real_dicom_series_is_segmented_as_a_session(client, server, real_samples):
    slices = sorted(path for path in (real_samples / "dicom" / "totalsegmentator").iterdir() if path.is_file())
    session = open_session(server, slices)
    answer, _ = client.infer(MODEL, "", {}, session_id=session)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(slices[0].parent)))
    series, label = reader.Execute(), SimpleITK.ReadImage(answer)
    assert label.GetSize() == series.GetSize()
    np.testing.assert_allclose(label.GetOrigin(), series.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(label.GetSpacing(), series.GetSpacing(), atol=1e-3)
    np.testing.assert_allclose(label.GetDirection(), series.GetDirection(), atol=1e-5)
    client.remove_session(session)
