"""The whole loop in the OHIF viewer, in a real browser, on a real PACS; the tests build on each other.

What each step showed is kept as a screenshot in `runs/screenshots`.
"""

import os
import subprocess
import sys
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest

from lib.dicom_seg.read import read_seg
from lib.dicom_seg.source import LPS_TO_RAS, SourceSeries, onto_grid, source_of
from lib.dicom_seg.write import Provenance, write_seg
from lib.dicomweb.settings import PASSWORD, USER
from lib.phantom import Phantom, make_phantom
from lib.settings import load_settings
from lib.volume import Volume
from lib.volume_io import write_label
from tests import screenshots
from tests.browser import browser_or_skip
from tests.loop.running_server import APP, PATIENCE_S, REPOSITORY, RunningServer, make_app, wait_until
from tests.loop.viewer import PANEL, Viewer
from tests.orthanc import orthanc_or_skip, slices_of

pytestmark = pytest.mark.server

_LOGIN = ("annotator", "correct horse ü")
_WAITING, _LABELLED, _FINAL = "ohif-waiting", "ohif-labelled", "ohif-final"  # patients
_COLORS = {"liver": [221, 130, 101], "tumor": [144, 238, 144]}
_RECIPE = {
    "inference.engine": "pytorch",  # another would be chosen anew
    "training.max_epochs": 1,
    "training.patch_size": 64,
    "training.slices_per_case": 2,
    "training.threads": 1,
    "training.cross_validate_below": 0,
    "training.by_itself.niceness": 0,  # or it would wait for the other tests
}


class Case(NamedTuple):
    """A phantom as it is in the PACS."""

    phantom: Phantom
    source: SourceSeries

    @property
    def image_id(self) -> str:
        return self.source.series_uid

    @property
    def study_uid(self) -> str:
        return str(self.source.header.StudyInstanceUID)

    @property
    def truth(self):
        """The label on the grid of the series."""
        return onto_grid(self.phantom.label, self.source.grid)


@pytest.fixture(scope="module")
def browser():
    with browser_or_skip() as found:
        yield found


@pytest.fixture(scope="module")
def orthanc():
    with orthanc_or_skip(dict([_LOGIN])) as found:
        yield found


@pytest.fixture(scope="module")
def cases(orthanc):
    """By patient; of the one to segment the slices are numbered upwards, of the others downwards."""
    found = {}
    for patient, seed, shape in (
        (_WAITING, 8, (256, 256, 24)),
        (_LABELLED, 21, (96, 96, 16)),
        (_FINAL, 22, (96, 96, 16)),
    ):
        phantom = make_phantom(seed, shape=shape, tumors=3)
        series = slices_of(phantom.image, f"1.2.3.{seed}", "20240501", patient, "portal venous")
        if patient != _WAITING:
            for number, dataset in enumerate(reversed(series), start=1):
                dataset.InstanceNumber = number
        orthanc.fill(series)
        found[patient] = Case(phantom, source_of(series))
    return found


@pytest.fixture(scope="module")
def server(warm, orthanc, cases, browser, tmp_path_factory):
    """A server on the PACS, which has a label of two of the three."""
    folder = tmp_path_factory.mktemp("ohif")
    app = make_app(folder / "app")
    environment = dict(zip((USER, PASSWORD), _LOGIN, strict=True))
    guarded = ("--uvicorn_app", "lib.web.guarded:app")
    environment["PYTHONPATH"] = str(REPOSITORY)
    with RunningServer(
        warm, orthanc.url, folder / "run", app=app, conf=_RECIPE, environment=environment, options=guarded
    ) as running:
        for patient in (_LABELLED, _FINAL):
            path = folder / f"{patient}.nii.gz"
            write_label(path, cases[patient].truth)
            running.client().save_label(cases[patient].image_id, str(path), "final", {"label_info": []})
        yield running


@pytest.fixture(scope="module")
def viewer(browser, server):
    screenshots.FOLDER.mkdir(parents=True, exist_ok=True)
    for path in screenshots.FOLDER.glob("ohif-*.png"):
        path.unlink()
    viewer = Viewer(browser, server.url, screenshots.FOLDER)
    yield viewer
    assert viewer.errors == []


def dice(first, second, index):
    first, second = first == index, second == index
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def middle_of(label: Volume, index: int, height: float) -> tuple[float, float, float]:
    """The voxel of a class that is farthest inside it in the axial slice at a height, in mm (LPS)."""
    from scipy.ndimage import distance_transform_edt

    affine = LPS_TO_RAS @ label.affine  # its own inverse
    z = round((height - affine[2, 3]) / affine[2, 2])
    depth = distance_transform_edt(np.pad(label.array[:, :, z] == index, 1))[1:-1, 1:-1]
    assert depth.max() > 2, f"no class {index} in slice {z}"
    x, y = np.unravel_index(depth.argmax(), depth.shape)
    return tuple(float(value) for value in (affine @ [x, y, z, 1])[:3])


def is_tinted(picture, place, color):
    """Whether the pixels at a place are a mixture of gray and this color."""
    column, row = (round(value) for value in place)
    found, wanted = picture[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3).mean(0), np.array(color, float)
    found, wanted = found - found.mean(), wanted - wanted.mean()
    share = np.linalg.norm(found) / np.linalg.norm(wanted)
    return share > 0.2 and found @ wanted > 0.97 * np.linalg.norm(found) * np.linalg.norm(wanted)


def test_the_list_of_studies(viewer, cases):
    viewer.open_studies()
    for patient in cases:
        viewer.study_of(patient).wait_for()
    viewer.picture("ohif-1-studies")


def test_the_next_sample_is_the_one_without_a_label(viewer, server, cases):
    viewer.open_study(_LABELLED, "MONAI Label")
    assert viewer.page.locator("#monailabelServerURL").input_value() == f"{server.url}/"
    viewer.connect()
    viewer.open_section("Active Learning")
    assert viewer.page.get_by_title("2/3 samples annotated").inner_text() == "67%"
    assert viewer.page.get_by_title("Not Running").inner_text() == "0%"
    told = viewer.next_sample()
    viewer.picture("ohif-2-next-sample")
    waiting = cases[_WAITING]
    assert (told["Patient ID"], told["Modality"], told["Study Date"]) == (_WAITING, "CT", "20240501")
    assert (told["Study Instance UID"], told["Series Instance UID"]) == (waiting.study_uid, waiting.image_id)
    viewer.page.get_by_role("button", name="OK").click()
    viewer.page.wait_for_url(f"**/monai-label?StudyInstanceUIDs={waiting.study_uid}")
    viewer.wait_for_images()


def test_liver_and_tumor_are_shown_where_they_are(viewer, cases):
    viewer.connect()
    viewer.segment()
    shown = viewer.segments(PANEL)
    assert {name: one.number for name, one in shown.items()} == {"liver": 1, "tumor": 2}
    colors = {name: [color] * 3 for name, color in _COLORS.items()}  # in three viewports
    viewer.wait_until(lambda: {n: one.colors for n, one in viewer.segments(PANEL).items()} == colors, "our colors")

    label, truth = viewer.label(PANEL), cases[_WAITING].truth
    np.testing.assert_allclose(label.affine, truth.affine, atol=0.01)
    assert dice(label.array, truth.array, 1) > 0.9
    assert dice(label.array, truth.array, 2) > 0.4

    viewer.page.wait_for_timeout(1000)  # until it is drawn
    picture = viewer.picture("ohif-3-segmentation")
    height = viewer.focus("mpr-axial")[2]
    for index, name in enumerate(_COLORS, start=1):
        place = viewer.on_screen("mpr-axial", middle_of(label, index, height))
        assert is_tinted(picture, place, _COLORS[name]), name
    beside = np.where(truth.array == 0, 3, 0).astype(np.uint8)
    place = viewer.on_screen("mpr-axial", middle_of(Volume(beside, truth.affine), 3, height))
    assert not any(is_tinted(picture, place, color) for color in _COLORS.values())


def test_class_prompts_show_the_chosen_class_alone(viewer):
    both = viewer.label(PANEL).array
    viewer.segment_classes("tumor")
    np.testing.assert_array_equal(viewer.label(PANEL).array, np.where(both == 2, 2, 0))
    viewer.segment()
    np.testing.assert_array_equal(viewer.label(PANEL).array, both)


def test_a_correction_is_stored_as_it_is_on_the_screen(viewer, orthanc, cases):
    case = cases[_WAITING]
    before = viewer.label(PANEL)
    viewer.open_segmentations()
    viewer.paint("tumor", middle_of(before, 1, viewer.focus("mpr-axial")[2]))
    drawn = viewer.wait_until(lambda: _changed(viewer, before), "a stroke of the brush")
    viewer.picture("ohif-4-correction")
    assert viewer.store("corrected in the viewer") == "The segmentation is in the PACS now"
    viewer.picture("ohif-5-stored")

    (found,) = stored(orthanc, case)
    assert found.description == "corrected in the viewer"
    assert [(one.number, one.name, one.algorithm_type) for one in found.segments] == [
        (1, "liver", "MANUAL"), (2, "tumor", "MANUAL"),
    ]  # fmt: skip
    np.testing.assert_array_equal(onto_grid(found.volume, case.source.grid).array, drawn.array)


def versions_from_the_pacs(server, case):
    """The versions that SEGs became, the newest first."""
    found = server.ask("GET", f"/ledger/images/{case.image_id}/versions").reason
    return [one for one in found if one["source"] == "pacs"]


def test_what_is_stored_counts_like_a_submitted_label(viewer, server, cases):
    case = cases[_WAITING]
    (version,) = viewer.wait_until(lambda: versions_from_the_pacs(server, case), "the version of the SEG")
    assert (version["tag"], version["number"], version["current"]) == ("final", 1, True)
    assert version["voxels"]["tumor"] > 0
    assert server.ask("GET", "/ledger/status").reason["images"]["open"] == 0


def test_when_no_image_is_left_the_viewer_says_so(viewer):
    viewer.open_section("Active Learning")
    viewer.page.get_by_role("button", name="Next Sample").click()
    viewer.page.get_by_text("No CT is left for this strategy").wait_for()
    assert viewer.page.locator(".nextSampleForm").count() == 0


def test_a_liver_without_tumors_is_stored_as_one_that_was_looked_through(viewer, server, cases):
    case = cases[_WAITING]
    viewer.segment_classes("liver")
    viewer.store("no tumor")
    newest = viewer.wait_until(
        lambda: (found := versions_from_the_pacs(server, case))[0]["number"] == 2 and found[0], "its version"
    )
    assert (newest["tag"], newest["voxels"]["tumor"]) == ("final", 0)
    assert newest["voxels"]["liver"] > 0
    assert newest["slices"] is None  # no part of it counts as not looked at


def test_what_can_not_be_stored_is_said(viewer, orthanc, cases):
    orthanc.stop()
    try:
        told = viewer.store("while the PACS is down")
    finally:
        orthanc.start()
    assert told.startswith("The segmentation is NOT in the PACS: the PACS at 127.0.0.1")
    assert told.endswith("can't be reached; see that it runs, and try again")
    viewer.picture("ohif-6-not-stored")
    assert "while the PACS is down" not in [one.description for one in stored(orthanc, cases[_WAITING])]


def test_update_model_trains(viewer, server):
    viewer.open_section("Active Learning")
    viewer.page.get_by_role("button", name="Update Model").click()
    viewer.page.get_by_text("Model update task STARTED").wait_for()
    viewer.page.get_by_role("button", name="Stop Training").wait_for()
    viewer.picture("ohif-7-training")
    task = server.finished("/train/")
    assert task["status"] == "DONE", task["details"]
    viewer.page.reload()
    viewer.wait_for_images()
    viewer.connect()
    viewer.open_section("Active Learning")
    viewer.page.get_by_role("button", name="Update Model").wait_for()


def test_a_seg_of_the_pacs_is_shown_with_its_names(viewer, orthanc, cases):
    case, settings = cases[_FINAL], load_settings(APP / "app.yaml", {})
    provenance = Provenance("LiverLoop final v7", kind="MANUAL", author="Ann", version=7)
    orthanc.pacs().store(write_seg(case.truth, case.source, settings.labels, provenance))
    viewer.open_studies()
    viewer.open_study(_FINAL, "Segmentation")
    found = viewer.open_seg("LiverLoop final v7")
    assert {name: one.number for name, one in viewer.segments(found).items()} == {"liver": 1, "tumor": 2}
    for name, color in _COLORS.items():
        np.testing.assert_allclose(viewer.segments(found)[name].colors, [color], atol=3, err_msg=name)
    np.testing.assert_array_equal(viewer.label(found).array, case.truth.array)
    viewer.page.get_by_text("liver", exact=True).first.click()  # goes to its middle
    viewer.page.wait_for_timeout(1000)
    picture = viewer.picture("ohif-8-seg-of-the-pacs")
    (viewport,) = viewer.viewports()
    place = viewer.on_screen(viewport, middle_of(case.truth, 1, viewer.focus(viewport)[2]))
    assert is_tinted(picture, place, _COLORS["liver"])


def test_once_there_is_a_user_the_viewer_asks_for_a_login(viewer, server, orthanc, cases):
    environment = os.environ | dict(zip((USER, PASSWORD), _LOGIN, strict=True))
    command = (REPOSITORY / "scripts" / "users.py", "add", "ann", "--role", "annotator")
    subprocess.run(
        [sys.executable, *command, "--studies", orthanc.url, "--app", server.app],
        input="four words and more\n", text=True, env=environment, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    page = viewer.page
    wait_until(lambda: server.ask("GET", "/info/").status == 401, "the first user to count")
    study = f"/ohif/monai-label?StudyInstanceUIDs={cases[_LABELLED].study_uid}"
    page.goto(server.url + study)
    page.get_by_role("heading", name="Log in").wait_for()
    viewer.picture("ohif-9-login")
    viewer.log_in("ann", "four words")
    page.get_by_role("alert").get_by_text("Wrong user name or password.").wait_for()
    viewer.picture("ohif-10-wrong-login")
    assert page.get_by_label("User name").input_value() == "ann"
    viewer.log_in("ann", "four words and more")
    page.wait_for_url(f"**{study}")
    viewer.wait_for_images()
    viewer.connect()
    viewer.segment()
    viewer.open_segmentations()
    before = viewer.label(PANEL)
    viewer.paint("tumor", middle_of(before, 1, viewer.focus("mpr-axial")[2]))
    viewer.wait_until(lambda: _changed(viewer, before), "a stroke of the brush")
    assert viewer.store("by ann") == "The segmentation is in the PACS now"
    client = server.client()
    client.update_auth(client.auth_token("ann", "four words and more"))

    def authors():
        path = f"/ledger/images/{cases[_LABELLED].image_id}/versions"
        found = server.ask("GET", path, headers=client._headers).reason
        return [one["author"] for one in found if one["source"] == "pacs"]

    assert viewer.wait_until(authors, "the version of the SEG") == ["ann"]


def test_logging_out_ends_it(viewer, server):
    page = viewer.page
    page.goto(f"{server.url}/")
    viewer.picture("ohif-11-front-page")
    page.goto(f"{server.url}/logout")
    viewer.picture("ohif-12-logout")
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Log in").wait_for()
    page.goto(f"{server.url}/ohif/")
    page.wait_for_url("**/login?next=%2Fohif%2F")


def test_nothing_leaves_and_nothing_is_told(viewer, server):
    elsewhere = {urlsplit(url).netloc for url in viewer.requests if url.startswith("http")} - {
        urlsplit(server.url).netloc
    }
    assert elsewhere <= {"fonts.googleapis.com"}  # refused by the browser, as the policy of the pages says
    log = server.log()
    assert not [text for text in (_WAITING, _LABELLED, "Phantom^", "Phantom%5E", *_LOGIN) if text in log]


def stored(orthanc, case):
    """The SEGs of a case's study as labels."""
    pacs, settings, found = orthanc.pacs(), load_settings(APP / "app.yaml", {}), []
    for series in pacs.find_series("SEG", study_uid=case.study_uid):
        for dataset in orthanc.objects(series.series_uid):
            found.append(read_seg(dataset, case.source, settings.labels))
    return found


def _changed(viewer, before):
    label = viewer.label(PANEL)
    return label if (label.array != before.array).any() else None
