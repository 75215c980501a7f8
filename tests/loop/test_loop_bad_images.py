import numpy as np
import pydicom
import pytest

from lib.volume_io import write_image
from tests.loop.bad_images import BAD_IMAGES
from tests.loop.running_server import MODEL, open_session, wait_until
from tests.loop.studies import manifest, phantom, write_series

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def small():
    return phantom(31, (64, 64, 8)).image


@pytest.fixture(scope="module")
def pool(server, small):
    """The bad files lie in the studies folder, as a site may have put them there."""
    paths = {name: server.studies / f"bad_{name}{bad.suffix}" for name, bad in BAD_IMAGES.items()}

    def listed():
        return {name for name in server.client().datastore()["objects"] if name.startswith("bad_")}

    try:
        for name, path in paths.items():
            BAD_IMAGES[name].write(path, small)
        wait_until(lambda: len(listed()) == len(paths), "the server to see the files")
        yield paths
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)
        wait_until(lambda: not listed(), "the server to see that the files are gone")


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_file_of_the_pool_is_refused_by_its_name(server, client, pool, name):
    before = manifest(server.studies)
    answer = server.infer(f"bad_{name}")
    assert answer.status == 400
    assert answer.reason.startswith(f"{pool[name].name}: ")
    assert BAD_IMAGES[name].reason in answer.reason
    assert "\n" not in answer.reason
    assert manifest(server.studies) == before
    assert client.infer(MODEL, "case_20", {})[0]


def sent_reason(name):
    """What is sent is looked at before it gets a name."""
    return "neither NIfTI nor NRRD by its content" if name == "text" else BAD_IMAGES[name].reason


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_file_sent_for_inference_is_refused(server, small, tmp_path, name):
    path = tmp_path / f"sent{BAD_IMAGES[name].suffix}"
    BAD_IMAGES[name].write(path, small)
    before = manifest(server.studies)
    answer = server.infer(file=path)
    assert answer.status == 400
    assert answer.reason.startswith("the image sent: ")
    assert sent_reason(name) in answer.reason
    assert manifest(server.studies) == before


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_file_sent_for_the_pool_is_refused_and_not_kept(server, client, small, tmp_path, name):
    path = tmp_path / f"scan{BAD_IMAGES[name].suffix}"
    BAD_IMAGES[name].write(path, small)
    before = manifest(server.studies)
    with path.open("rb") as content:
        answer = server.ask("PUT", "/datastore/image?image=scan", files={"file": (path.name, content)})
    assert answer.status == 400
    assert answer.reason.startswith("image 'scan': ")
    assert sent_reason(name) in answer.reason
    assert manifest(server.studies) == before
    assert "scan" not in client.datastore()["objects"]


def test_other_kinds_of_files_are_refused(server, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    before = manifest(server.studies)
    with path.open("rb") as content:
        answer = server.ask("PUT", "/datastore/image?image=photo", files={"file": (path.name, content)})
    assert answer.status == 400
    assert "neither NIfTI nor NRRD by its content (it begins with b'\\x89PNG')" in answer.reason
    assert server.infer(file=path).status == 400
    assert manifest(server.studies) == before


def test_another_image_under_a_taken_id_is_refused(server, small, tmp_path):
    path = tmp_path / "scan.nii.gz"
    write_image(path, small)
    before = manifest(server.studies)
    with path.open("rb") as content:
        answer = server.ask("PUT", "/datastore/image?image=case_20", files={"file": (path.name, content)})
    assert (answer.status, answer.reason) == (
        400,
        "there is already another image 'case_20'; upload this one under a different id",
    )
    assert manifest(server.studies) == before


def changed_slices(**attributes):
    def change(paths):
        item = pydicom.dcmread(paths[3])
        for name, value in attributes.items():
            setattr(item, name, value)
        item.save_as(paths[3])
        return paths

    return change


def as_magnetic_resonance(paths):
    for path in paths:
        item = pydicom.dcmread(path)
        item.Modality = "MR"
        item.save_as(path)
    return paths


_SERIES = {
    "a slice is missing": (lambda paths: paths[:3] + paths[4:], "1 slice is missing between"),
    "a slice of another size": (
        changed_slices(Rows=32, PixelData=np.zeros((32, 64), np.uint16).tobytes()),
        "slices of 64x64 and 32x64 are mixed",
    ),
    "a slice of another series": (changed_slices(SeriesInstanceUID="1.2.3"), "2 CT series found"),
    "not a CT": (as_magnetic_resonance, "no CT slices found"),
}


@pytest.mark.parametrize("case", _SERIES)
def test_a_series_that_is_no_volume_is_refused_without_the_servers_paths(server, small, tmp_path, case):
    change, reason = _SERIES[case]
    session = open_session(server, change(write_series(tmp_path / "series", small)))
    answer = server.infer(session_id=session)
    assert answer.status == 400
    assert answer.reason.startswith("the image sent")
    assert reason in answer.reason
    assert str(server.folder) not in answer.reason
    server.client().remove_session(session)


@pytest.mark.parametrize("content", [b"no slice", b"\x1f\x8b", b""])
def test_a_session_takes_images_alone(server, tmp_path, content):
    path = tmp_path / "image.nii.gz"
    path.write_bytes(content)
    with path.open("rb") as file:
        answer = server.ask("PUT", "/session/", files={"files": (path.name, file)})
    assert answer.status == 400
    assert "neither NIfTI, NRRD nor DICOM by its content" in answer.reason


def test_a_damaged_file_in_a_session_is_refused(server, small, tmp_path):
    path = tmp_path / "image.nii.gz"
    write_image(path, small)
    path.write_bytes(path.read_bytes()[:-2000])
    session = open_session(server, [path])
    answer = server.infer(session_id=session)
    assert answer.status == 400
    assert answer.reason.startswith("the image sent: not a readable .nii.gz file")
    server.client().remove_session(session)
