import io
import json
import threading
import zipfile
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import requests
import SimpleITK
from PIL import Image

from lib.volume import Volume
from lib.volume_io import read_label, write_image
from tests.loop.running_server import MODEL, open_session, wait_until
from tests.loop.studies import nifti_geometry, oblique, oriented, phantom, write_series

pytestmark = pytest.mark.server

SMALL = (64, 64, 8)
_GEOMETRIES = {
    **{codes: lambda volume, codes=codes: oriented(volume, codes) for codes in ("LPS", "RAS", "RPI", "SAL", "PSR")},
    "oblique": oblique,
    "oblique_sagittal": lambda volume: oblique(oriented(volume, "PSR"), 31.0),
    "single_slice": lambda volume: Volume(volume.array[:, :, 4:5], volume.affine),
}


@pytest.fixture(scope="module")
def small():
    return phantom(31, SMALL).image


def nifti(path):
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


@pytest.fixture(scope="module")
def reference(server, small, tmp_path_factory):
    """The label of the small phantom in its own orientation."""
    path = tmp_path_factory.mktemp("reference") / "image.nii.gz"
    write_image(path, small)
    answer, _ = server.client().infer(MODEL, "", {"result_extension": ".nii.gz"}, file=str(path))
    return Volume(nifti(answer)[0], nib.load(path).affine)


@pytest.mark.parametrize("geometry", _GEOMETRIES)
def test_the_label_has_exactly_the_images_grid(client, small, tmp_path, geometry):
    path = tmp_path / "image.nii.gz"
    write_image(path, _GEOMETRIES[geometry](small))
    answer, _ = client.infer(MODEL, "", {"result_extension": ".nii.gz"}, file=str(path))
    (shape, affine), (label, label_affine) = nifti_geometry(path), nifti(answer)
    assert label.shape == shape
    assert np.array_equal(label_affine, affine)
    assert label.dtype == np.uint8


@pytest.mark.parametrize("geometry", ["LPS", "RPI", "SAL", "oblique"])
def test_the_nrrd_label_lies_where_another_reader_puts_the_image(client, small, tmp_path, geometry):
    path = tmp_path / "image.nii.gz"
    write_image(path, _GEOMETRIES[geometry](small))
    answer, _ = client.infer(MODEL, "", {}, file=str(path))
    label, image = SimpleITK.ReadImage(answer), SimpleITK.ReadImage(str(path))
    assert label.GetSize() == image.GetSize()
    assert label.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    for get in (SimpleITK.Image.GetOrigin, SimpleITK.Image.GetSpacing, SimpleITK.Image.GetDirection):
        np.testing.assert_allclose(get(label), get(image), atol=1e-4)  # SimpleITK reads NIfTI affines as float32


@pytest.mark.parametrize("codes", ["RAS", "SAL"])
def test_the_stored_order_changes_nothing_in_the_patient(client, small, reference, tmp_path, codes):
    path = tmp_path / "image.nii.gz"
    write_image(path, oriented(small, codes))
    answer, _ = client.infer(MODEL, "", {"result_extension": ".nii.gz"}, file=str(path))
    np.testing.assert_array_equal(nifti(answer)[0], oriented(reference, codes).array)


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".nii", ".seg.nrrd"])
def test_every_format_holds_the_same_voxels(client, reference, small, tmp_path, extension):
    path = tmp_path / "image.nii.gz"
    write_image(path, small)
    answer, params = client.infer(MODEL, "", {"result_extension": extension}, file=str(path))
    assert Path(answer).name.endswith(extension)
    if extension.endswith("nrrd"):
        voxels, header = nrrd.read(answer)
        assert header["type"] in {"unsigned char", "uint8"}
        assert header["encoding"] == "gzip"
        names = [header.get(f"Segment{index}_Name") for index in range(2)]
        assert names == (["liver", "tumor"] if extension == ".seg.nrrd" else [None, None])
    else:
        voxels, _ = nifti(answer)
    np.testing.assert_array_equal(voxels, reference.array)
    assert params["label_names"] == {"liver": 1, "tumor": 2}


def test_a_browser_gets_a_raw_label_as_gzip_on_its_way(server, tmp_path):
    def asked(**headers):
        return requests.post(
            f"{server.url}/infer/{MODEL}",
            params={"image": "case_20", "output": "image"},
            data={"params": json.dumps({"result_compress": False, "client_id": "viewer"})},
            headers=headers,
            timeout=60,
        )

    browser, other = asked(**{"Accept-Encoding": "gzip, deflate, br, zstd"}), asked(**{"Accept-Encoding": "identity"})
    assert (browser.headers["Content-Encoding"], other.headers.get("Content-Encoding")) == ("gzip", None)
    assert int(browser.headers["Content-Length"]) < int(other.headers["Content-Length"]) / 20
    assert browser.content == other.content  # requests has unpacked it
    path = tmp_path / "label.nrrd"
    path.write_bytes(browser.content)
    assert nrrd.read_header(str(path))["encoding"] == "raw"
    assert read_label(path).array.any()


def test_planes_come_as_layers_of_a_segmentation(client, reference, small, tmp_path):
    path = tmp_path / "image.nii.gz"
    write_image(path, small)
    answer, _ = client.infer(MODEL, "", {"planes": "seg.nrrd"}, file=str(path))
    voxels, header = nrrd.read(answer)
    np.testing.assert_array_equal(voxels, np.stack([reference.array == index for index in (1, 2)]))
    assert [header["Segment0_Layer"], header["Segment1_Layer"]] == ["0", "1"]


def test_planes_come_as_images(client, reference, small, tmp_path):
    path = tmp_path / "image.nii.gz"
    write_image(path, small)
    answer, _ = client.infer(MODEL, "", {"planes": "images"}, file=str(path))
    with zipfile.ZipFile(answer) as archive:
        names = sorted(archive.namelist())
        assert names == [f"{name}/{name}_{z:04d}.png" for name in ("liver", "tumor") for z in range(SMALL[2])]
        for index, name in ((1, "liver"), (2, "tumor")):
            slices = [np.asarray(Image.open(io.BytesIO(archive.read(f"{name}/{name}_{z:04d}.png")))) for z in range(8)]
            np.testing.assert_array_equal(np.stack(slices) > 0, reference.axial() == index)


def test_the_answer_tells_version_volumes_lesions_and_times(client, cases):
    answer, params = client.infer(MODEL, "case_20", {"result_extension": ".nii.gz"})
    label, _ = nifti(answer)
    voxel_ml = cases["case_20"].image.voxel_ml
    assert params["model_version"]
    for name, index in (("liver", 1), ("tumor", 2)):
        assert params["volumes_ml"][name] == pytest.approx((label == index).sum() * voxel_ml, rel=1e-4)
    assert params["lesion_count"] >= 0
    assert {"pre", "infer", "post", "write", "total"} <= params["latencies"].keys()
    assert set(params["centroids"]) == {name for name, index in (("liver", 1), ("tumor", 2)) if (label == index).any()}


def test_each_postprocessing_step_can_be_switched_for_one_request(client):
    switches = {"largest_liver": False, "fill_holes": False, "tumor_in_hull": False, "drop_specks": False}
    _, plain = client.infer(MODEL, "case_20", dict(switches))
    _, usual = client.infer(MODEL, "case_20", {})
    assert {key: plain["postprocessing"][key] for key in switches} == switches
    assert all(usual["postprocessing"][key] for key in switches)


def test_an_uploaded_image_joins_the_pool_as_it_is(client, server, small, tmp_path):
    path = tmp_path / "anything.nii.gz"
    write_image(path, small)
    assert client.upload_image(str(path), "uploaded")["image"] == "uploaded"
    try:
        assert (server.studies / "uploaded.nii.gz").read_bytes() == path.read_bytes()
        assert "uploaded" in client.datastore()["objects"]
        assert client.upload_image(str(path), "uploaded")["image"] == "uploaded"  # once more changes nothing
        answer, _ = client.infer(MODEL, "uploaded", {"result_extension": ".nii.gz"})
        assert nifti_geometry(answer)[0] == small.shape
    finally:
        assert server.ask("DELETE", "/datastore/image?id=uploaded").status == 200


def test_a_session_holds_one_file(client, server, small, tmp_path):
    path = tmp_path / "image.nii.gz"
    write_image(path, oriented(small, "RAS"))
    session = client.create_session(str(path))["session_id"]
    assert client.get_session(session)["name"] == session
    answer, _ = client.infer(MODEL, "", {"result_extension": ".nii.gz"}, session_id=session)
    assert np.array_equal(nifti_geometry(answer)[1], nifti_geometry(path)[1])
    client.remove_session(session)
    assert not (server.folder / "sessions" / session).exists()
    refused = server.infer(session_id=session)
    assert (refused.status, refused.reason) == (
        404,
        f"there is no session {session!r}; it may have expired, send the image again",
    )


@pytest.mark.parametrize("geometry", ["LPS", "oblique"])
def test_a_session_holds_the_files_of_a_dicom_series(client, server, small, tmp_path, geometry):
    volume = _GEOMETRIES[geometry](small)
    session = open_session(server, write_series(tmp_path / "series", volume))
    answer, params = client.infer(MODEL, "", {"result_extension": ".nii.gz"}, session_id=session)
    label, affine = nifti(answer)
    assert label.shape == volume.shape
    np.testing.assert_allclose(affine, volume.affine, atol=1e-3)  # DICOM keeps decimals, not doubles
    assert params["model_version"]
    client.remove_session(session)


def test_a_series_gives_the_same_label_as_its_volume(client, server, small, reference, tmp_path):
    session = open_session(server, write_series(tmp_path / "series", small))
    answer, _ = client.infer(MODEL, "", {"result_extension": ".nii.gz"}, session_id=session)
    np.testing.assert_array_equal(nifti(answer)[0], reference.array)
    client.remove_session(session)


def test_other_requests_are_answered_while_an_inference_runs(server, tmp_path):
    path = tmp_path / "large.nii.gz"
    small = phantom(5, (192, 192, 4)).image
    write_image(path, Volume(np.tile(small.array, (1, 1, 12)), small.affine))
    answers = []
    inference = threading.Thread(target=lambda: answers.append(server.infer(file=path, output="json")))
    inference.start()
    try:
        for _ in range(3):
            assert server.ask("GET", "/train/").status in {200, 404}
        assert inference.is_alive()
    finally:
        inference.join()
    assert answers[0].status == 200


def test_nothing_of_a_request_stays_behind(client, server, small, tmp_path):
    path = tmp_path / "image.nii.gz"
    write_image(path, small)
    client.infer(MODEL, "", {}, file=str(path))
    path.write_bytes(path.read_bytes()[:1000])
    assert server.infer(file=path).status == 400
    endings = (".nii.gz", ".nii", ".nrrd", ".zip")
    wait_until(lambda: not any(entry.name.endswith(endings) for entry in server.temporary.iterdir()), "an empty folder")
