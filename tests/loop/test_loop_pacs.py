"""The whole loop over a real PACS, as OHIF and 3D Slicer go through it."""

import base64
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lib.store.layout import Layout
from lib.volume import Volume
from lib.volume_io import read_grid, read_label, write_label
from tests.loop.preparation import Preparation
from tests.loop.running_server import MODEL, RunningServer, make_app, wait_until
from tests.orthanc import Orthanc, ct_series

pytestmark = pytest.mark.server
NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]


@pytest.fixture(scope="module")
def series(running_orthanc: Orthanc):
    """Three CTs of three patients in the PACS, by image id."""
    running_orthanc.empty()
    found = [ct_series(seed, shape=(64, 64, 8), patient=f"P{seed}") for seed in range(3)]
    running_orthanc.fill(*found)
    return {str(one[0].SeriesInstanceUID): one for one in found}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pacs")


def start(warm: Preparation, place: Path, orthanc: Orthanc, run: str) -> RunningServer:
    app = place / "app"
    if not app.exists():
        make_app(app)
    return RunningServer(
        warm,
        orthanc.url,
        place / run,
        app=app,
        conf={"inference.engine": "pytorch", "pacs.poll_seconds": 1},
        environment=orthanc.login,
    )


@pytest.fixture(scope="module")
def server(warm, series, place, running_orthanc):
    with start(warm, place, running_orthanc, "run") as running:
        yield running


def working_folder(place: Path) -> Path:
    (folder,) = (place / "app" / "pacs").iterdir()
    return folder


def test_the_pacs_is_the_pool(server, series):
    datastore = wait_until(
        lambda: (found := server.client().info()["datastore"])["total"] == 3 and found, "the listing"
    )
    assert datastore == {"total": 3, "completed": 0, "label_tags": {}}


def test_the_loop_of_an_annotator(server, series, place):
    client, other = server.client("anna"), server.client("ben")
    sample = client.next_sample("random", {})
    slices = series[sample["id"]]
    assert sample["SeriesInstanceUID"] == sample["id"]
    assert sample["StudyInstanceUID"] == slices[0].StudyInstanceUID
    assert sample["Modality"] == "CT"
    assert sample["instances"] == len(slices)
    assert other.next_sample("random", {})["id"] != sample["id"]

    file, result = client.infer(MODEL, sample["id"], {"result_extension": ".nrrd"})
    image = read_grid(sample["path"])
    label = read_label(file)
    assert image.shape == label.shape == (64, 64, 8)
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)
    first = slices[0]  # the first voxel lies where DICOM has it
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ image.affine @ [0, 0, 0, 1], [*first.ImagePositionPatient, 1])
    assert result["model_version"]
    again = client.infer(MODEL, sample["id"], {"result_extension": ".nrrd"})[1]
    assert again["cached"] is True  # as with a studies folder

    corrected = np.zeros(label.shape, np.uint8)
    corrected[10:20, 10:20, 2:5] = 1
    path = place / "corrected.nii.gz"
    write_label(path, Volume(corrected, label.affine))
    client.save_label(sample["id"], str(path), params={"label_info": NAMES})
    saved = nib.load(working_folder(place) / "labels" / "final" / f"{sample['id']}.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), corrected)
    assert client.info()["datastore"]["completed"] == 1
    assert client.next_sample("random", {})["id"] != sample["id"]
    (version,) = server.ask("GET", f"/ledger/images/{sample['id']}/versions?tag=final").reason
    assert version["author"] == "anna"
    assert version["model_version"] == result["model_version"]


def test_a_series_that_has_just_come_is_known_at_once(server, running_orthanc):
    late = ct_series(9, shape=(64, 64, 5))
    running_orthanc.fill(late)
    answer = server.infer(str(late[0].SeriesInstanceUID), {"result_extension": ".nii.gz"})
    assert answer.status == 200


def test_what_the_pacs_does_not_have_is_not_there(server):
    for unknown in ("1.2.3", "../etc", "nothing"):
        assert server.infer(unknown).status in {400, 404}
    answer = server.infer("1.2.3.4")
    assert answer.status == 404
    assert "there is no CT series '1.2.3.4' in the PACS at 127.0.0.1" in answer.reason


def test_nothing_in_the_pacs_is_removed_or_added_by_hand(server, series):
    image_id = next(iter(series))
    answer = server.ask("DELETE", f"/datastore/?id={image_id}")
    assert answer.status == 400
    assert "come from the PACS at 127.0.0.1" in answer.reason
    answer = server.ask("PUT", "/datastore/?image=more", files={"file": ("more.nii.gz", b"nothing")})
    assert answer.status == 400
    assert "in which it changes nothing; send the series to that" in answer.reason


def test_nothing_tells_of_patients_or_the_login(server, running_orthanc):
    ((user, password),) = running_orthanc._users.items()
    log = server.log()
    commands = [part for process in (server.process, *server.children()) for part in process.cmdline()]
    answers = [str(server.ask("GET", path)) for path in ("/info/", "/ledger/status", "/datastore/?output=all")]
    for secret in (password, base64.b64encode(f"{user}:{password}".encode()).decode()):
        assert not [text for text in (log, *commands, *answers) if secret in text]
    assert "fetched the image" in log
    assert "Phantom^" not in log


def test_a_server_starts_again_while_the_pacs_is_down(warm, server, series, place, running_orthanc):
    labels = Layout(working_folder(place)).tag("final")
    (labelled,) = (path.name.removesuffix(".nii.gz") for path in labels.iterdir())
    server.end()
    running_orthanc.stop()
    try:
        with start(warm, place, running_orthanc, "again") as again:
            assert "asked again" in again.log()
            assert again.client().info()["datastore"]["completed"] == 1
            assert again.infer(labelled, {"result_extension": ".nii.gz"}).status == 200  # fetched before
            answer = again.ask("POST", "/activelearning/random", json={"client_id": "carl"})
            assert answer.status in {200, 503}, answer
            running_orthanc.start()
            wait_until(lambda: "lists 4 CT series" in again.log(), "the next listing")
            asked = {"json": {"client_id": "carl"}}
            wait_until(lambda: again.ask("POST", "/activelearning/random", **asked).status == 200, "the next image")
    finally:
        if running_orthanc._process is None:
            running_orthanc.start()
