"""An annotator's session in 3D Slicer, over a studies folder and over a PACS."""

import re
from contextlib import contextmanager
from datetime import date

import numpy as np
import pytest
import SimpleITK
from pydicom.uid import generate_uid

from lib.settings import Settings
from lib.volume_io import write_image, write_label
from tests.loop.running_server import MODEL, wait_until
from tests.loop.slicer_module import DialogError, SlicerModule
from tests.loop.slicer_site import SEEDS, SITES, on_grid_of, same_place
from tests.loop.studies import phantom
from tests.orthanc import slices_of

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=SITES)
def site(warm, request, tmp_path_factory):
    with SITES[request.param](warm, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def start(site, tmp_path):
    """Starts 3D Slicer and connects; nobody has an image before."""
    site.free_all()

    def started(name="user-xyz", **options):
        slicer = SlicerModule(site.server.url, tmp_path / name, name, **options)
        slicer.connect()
        return slicer

    return started


def draw_truth(slicer, case, tmp_path):
    """The annotator draws what is right."""
    write_label(tmp_path / "truth.nii.gz", case.label)
    truth = on_grid_of(slicer.volume, tmp_path / "truth.nii.gz")
    slicer.segments["liver"], slicer.segments["tumor"] = truth == 1, truth == 2


def label_cases(slicer, site, tmp_path, count):
    """So many cases are labelled, those that were before among them."""
    while slicer.labelled < count:
        image_id = slicer.next_sample()
        draw_truth(slicer, site.cases[image_id], tmp_path)
        slicer.submit()


def stored(site, image_id, slicer):
    """The label that others get, at the voxels of the image in 3D Slicer."""
    path = site.server.client("somebody").download_label(image_id, "final")
    same_place(SimpleITK.ReadImage(path), slicer.volume)
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))


def refusal(action):
    """The reason that the module's error box shows."""
    with pytest.raises(DialogError) as shown:
        action()
    text = str(shown.value)
    found = re.search(r"Status: (\d+); Response: (.*)", text)
    assert found, text
    return int(found[1]), found[2].replace("\\'", "'")  # as it is shown within quotes


def test_the_panels_are_filled(site, start):
    slicer = start()
    assert slicer.panels == {"segmentation": [MODEL], "deepgrow": [], "scribbles": []}
    assert slicer.strategies[0] == "hybrid"
    assert set(slicer.strategies) == set(Settings().active_learning.strategies)
    assert slicer.trainers == ["ALL", MODEL]
    assert slicer.tooltip == f"0/{len(site.cases)} samples are labeled"
    assert slicer.active_learning_bar == 0
    assert slicer.accuracy == "Accuracy: 0.0000"
    assert not slicer.can_train
    assert not slicer.can_stop
    assert slicer.options["models"][MODEL]["device"]
    assert slicer.options["trainers"][MODEL]["start"][0] == "published"


def test_a_case_is_loaded_segmented_corrected_and_submitted(site, start, tmp_path):
    slicer = start()
    image_id = slicer.next_sample()
    assert image_id in site.cases
    assert slicer.downloads == 1
    assert not slicer.original_shown
    if site.kind == "pacs":
        assert slicer.volume_name == f"P{SEEDS[list(site.cases).index(image_id)]}"
    write_image(tmp_path / "source.nii.gz", site.cases[image_id].image)
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(slicer.volume), on_grid_of(slicer.volume, tmp_path / "source.nii.gz")
    )

    answer = slicer.segment()
    assert list(answer["label_names"]) == list(slicer.segments) == ["liver", "tumor"]
    assert answer["model_version"]
    assert slicer.result.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    same_place(slicer.result, slicer.volume)
    assert slicer.segments["liver"].sum() > 1000

    slicer.segments["tumor"][8, 40:44, 40:44] = True
    slicer.segments["liver"][8, 40:44, 40:44] = False
    result = slicer.submit()
    assert (result["image"], result["tag"], result["version"]) == (image_id, "final", 1)
    expected = np.where(slicer.segments["tumor"], 2, slicer.segments["liver"].astype(np.uint8))
    np.testing.assert_array_equal(stored(site, image_id, slicer), expected)
    assert result["voxels"] == {"liver": int((expected == 1).sum()), "tumor": int((expected == 2).sum())}
    (version,) = site.versions(image_id)
    assert version["author"] == "user-xyz@127.0.0.1"  # the name that everybody has who entered none
    assert version["model_version"] == answer["model_version"]
    assert slicer.tooltip == f"1/{len(site.cases)} samples are labeled"
    assert slicer.can_train
    assert (site.folder / "labels" / "final" / f"{image_id}.nii.gz").is_file()

    assert slicer.next_sample() not in {None, image_id}


def test_who_opens_the_case_again_sees_the_same_image_and_annotators_share(site, start):
    one, two = start("anna"), start("ben")
    image_id = one.next_sample("random")
    assert two.next_sample("random") != image_id
    assert one.next_sample("random") == image_id
    assert one.downloads == 1


def test_an_image_in_slicers_cache_that_is_not_this_one_is_not_shown(site, start):
    slicer = start()
    image_id = slicer.next_sample("first")
    (path,) = slicer.cache.iterdir()
    right = SimpleITK.GetArrayFromImage(slicer.volume)
    SimpleITK.WriteImage(slicer.volume + 7, str(path))  # such as one of the same name from another server
    assert slicer.next_sample("first") == image_id
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(slicer.volume), right)
    assert slicer.downloads == 2


def test_files_that_both_see_are_not_downloaded(site, start):
    slicer = start(shares_files=True)
    assert slicer.next_sample() in site.cases
    assert slicer.downloads == 0
    slicer.segment()
    same_place(slicer.result, slicer.volume)


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
def test_segments_are_told_by_name_whatever_their_order(site, start, tmp_path, extension):
    slicer = start(extension=extension)
    image_id = slicer.next_sample()
    slicer.segment()
    draw_truth(slicer, site.cases[image_id], tmp_path)
    liver, tumor = slicer.segments["liver"], slicer.segments["tumor"]
    nothing = np.zeros_like(liver)
    slicer.segments = {"foreground_scribbles": liver, "background": ~liver, "Tumour": tumor, "empty": nothing}
    slicer.segments = {"foreground_scribbles": liver, "background": ~liver, "Tumour": tumor, "Liver": liver}
    _, label_info = slicer.exported()
    assert label_info == [{"name": "Tumour", "idx": 3}, {"name": "Liver", "idx": 4}]
    assert slicer.submit()["version"] == 1
    np.testing.assert_array_equal(stored(site, image_id, slicer), np.where(tumor, 2, liver.astype(np.uint8)))


def test_a_submitted_case_comes_back_for_review_with_its_label(site, start, tmp_path):
    label_cases(start("anna"), site, tmp_path, 1)
    slicer = start("reviewer")
    image_id = slicer.next_sample("review")
    before = stored(site, image_id, slicer)
    assert slicer.original_shown
    np.testing.assert_array_equal(slicer.segments["liver"], before == 1)
    np.testing.assert_array_equal(slicer.segments["tumor"], before == 2)
    slicer.segments["tumor"][:] = False
    number = len(site.versions(image_id))
    assert slicer.submit()["version"] == number + 1
    assert not (stored(site, image_id, slicer) == 2).any()


def test_slices_that_nobody_looked_at_are_shown_in_a_review(site, start, tmp_path):
    slicer = start()
    image_id = slicer.next_sample()
    draw_truth(slicer, site.cases[image_id], tmp_path)
    strokes = np.zeros_like(slicer.segments["liver"])
    strokes[7:9] = True
    for name in ("liver", "tumor"):
        slicer.segments[name] &= strokes
    strokes[:, 1:], strokes[:, :, 1:] = False, False
    slicer.segments["looked at"] = strokes
    result = slicer.submit()
    assert (result["looked_at_slices"], result["slices"]) == (2, len(strokes))
    reviewer = start("reviewer")
    while reviewer.next_sample("review") != image_id:
        reviewer.submit()
    assert list(reviewer.segments) == ["liver", "tumor", "not looked at"]
    seen = reviewer.segments["not looked at"].all(axis=(1, 2))
    assert np.flatnonzero(~seen).tolist() == [7, 8]
    np.testing.assert_array_equal(reviewer.segments["tumor"][7:9, 1:], slicer.segments["tumor"][7:9, 1:])
    assert reviewer.submit()["looked_at_slices"] == 2
    assert site.server.ask("DELETE", f"/datastore/label?id={image_id}&tag=final").status == 200


def test_submitting_twice_keeps_both(site, start, tmp_path):
    slicer = start()
    image_id = slicer.next_sample()
    draw_truth(slicer, site.cases[image_id], tmp_path)
    assert slicer.submit()["version"] == 1
    slicer.segments["tumor"][:] = False
    assert slicer.submit()["version"] == 2
    assert [version["number"] for version in site.versions(image_id)] == [2, 1]
    assert not (stored(site, image_id, slicer) == 2).any()
    assert site.server.ask("DELETE", f"/datastore/label?id={image_id}&tag=final").status == 200


def test_a_label_is_kept_after_the_time_is_over_and_somebody_else_has_the_image(site, start, tmp_path):
    late = start("late")
    image_id = late.next_sample("first")
    draw_truth(late, site.cases[image_id], tmp_path)
    site.let_leases_end()
    other = start("other")
    site.let_leases_end()
    while (given := other.next_sample("first")) != image_id:
        assert given
        other.options["strategies"]["first"]["skip"] = "for the one that is late"
    draw_truth(other, site.cases[image_id], tmp_path)
    before = len(site.versions(image_id))
    assert late.submit()["version"] == before + 1
    assert other.submit()["version"] == before + 2
    assert [version["author"] for version in site.versions(image_id)][:2] == ["other", "late"]
    assert site.server.ask("DELETE", f"/datastore/label?id={image_id}&tag=final").status == 200


def test_an_unknown_segment_is_refused_and_named(site, start):
    slicer = start()
    image_id = slicer.next_sample()
    before = site.versions(image_id)
    slicer.segments = {"Spleen": np.ones_like(slicer.segments["liver"])}
    status, reason = refusal(slicer.submit)
    assert status == 400
    assert "the segment 'Spleen' is not one of ['liver', 'tumor'] nor a known spelling of them" in reason
    assert "what was sent is kept as labels/refused/" in reason
    assert site.versions(image_id) == before
    slicer.segments = {"liver": slicer.segments["Spleen"]}  # renamed
    assert slicer.submit()["image"] == image_id
    assert site.server.ask("DELETE", f"/datastore/label?id={image_id}&tag=final").status == 200


def test_a_label_of_another_volume_is_refused(site, start):
    slicer = start()
    slicer.next_sample()
    slicer.volume = slicer.volume[:, :, 1:]  # cropped in 3D Slicer
    slicer.segments = {"liver": np.ones(slicer.volume.GetSize()[::-1], np.bool_)}
    status, reason = refusal(slicer.submit)
    assert status == 400
    assert "save it on the image's grid" in reason


def test_a_label_for_an_image_that_was_left_out_meanwhile_is_kept_and_not_trained_on(site, start, tmp_path):
    slicer = start()
    image_id = slicer.next_sample()
    why = {"reason": "motion"}
    assert site.server.ask("POST", f"/ledger/images/{image_id}/exclude", json=why).status == 200
    try:
        draw_truth(slicer, site.cases[image_id], tmp_path)
        assert slicer.submit()["version"] == len(site.versions(image_id))
        assert slicer.next_sample() != image_id
    finally:
        assert site.server.ask("POST", f"/ledger/images/{image_id}/include", json=why).status == 200
        assert site.server.ask("DELETE", f"/datastore/label?id={image_id}&tag=final").status == 200


@pytest.fixture
def own_image(tmp_path):
    path = tmp_path / "own.nii.gz"
    write_image(path, phantom(77).image)
    return path


@pytest.mark.parametrize("extension", [".nii.gz", ".seg.nrrd"])  # the second for overlapping segments
def test_an_image_of_ones_own_is_segmented_without_being_kept(site, start, own_image, extension):
    slicer = start(extension=extension)
    slicer.load_own(own_image, "3: Abdomen/Pelvis 1.5 mm")  # as 3D Slicer calls a series
    slicer.segment()
    same_place(slicer.result, slicer.volume)
    assert slicer.segments["liver"].sum() > 1000
    session = slicer.sample["session_id"]
    slicer.segment()
    assert slicer.sample["session_id"] == session
    assert slicer.client.remove_session(session)
    assert not (site.server.folder / "sessions" / session).exists()
    status, _ = refusal(slicer.segment)
    assert status == 404
    slicer.connect()
    assert slicer.total == len(site.cases)


def test_a_label_of_ones_own_image(site, start, own_image, tmp_path):
    slicer = start()
    slicer.load_own(own_image, "3: Abdomen/Pelvis 1.5 mm")
    slicer.segment()
    status, reason = refusal(slicer.submit)
    assert status == 400
    if site.kind == "pacs":
        assert "come from the PACS at 127.0.0.1" in reason
        assert "send the series to that" in reason
        return
    assert "image id '3: Abdomen/Pelvis 1.5 mm' is not allowed" in reason
    slicer.load_own(own_image, "own")  # 3D Slicer goes by the name that it had first
    slicer.segment()
    assert slicer.submit()["image"] == "own"
    np.testing.assert_array_equal(stored(site, "own", slicer) > 0, slicer.segments["liver"] | slicer.segments["tumor"])
    assert slicer.total == len(site.cases) + 1
    assert site.server.ask("DELETE", "/datastore/image?id=own").status == 200


@contextmanager
def down(pacs):
    pacs.stop()
    try:
        yield
    finally:
        pacs.start()


@pytest.mark.parametrize("site", ["pacs"], indirect=True)
def test_work_on_a_fetched_image_goes_on_while_the_pacs_is_down(site, start, tmp_path):
    slicer = start()
    image_id = slicer.next_sample()
    before = len(site.versions(image_id))
    with down(site.pacs):
        assert start().next_sample() == image_id  # 3D Slicer was started again
        slicer.segment()
        draw_truth(slicer, site.cases[image_id], tmp_path)
        assert slicer.submit()["version"] == before + 1
    assert site.server.ask("DELETE", f"/datastore/label?id={image_id}&tag=final").status == 200


@pytest.mark.parametrize("site", ["pacs"], indirect=True)
def test_a_series_that_comes_is_offered_and_one_that_goes_is_told(site, start):
    series = slices_of(phantom(66).image, generate_uid(), f"{date.today():%Y%m%d}", "P66", "portal venous")
    image_id = str(series[0].SeriesInstanceUID)
    slicer = start()
    total = slicer.total
    site.pacs.fill(series)
    wait_until(lambda: (slicer.connect(), slicer.total)[1] == total + 1, "the new series")
    with down(site.pacs):
        answer = site.server.infer(image_id)
        assert answer.status == 503
        assert re.match(r"the PACS at 127.0.0.1:\d+ can't be reached", answer.reason)
        assert site.server.ask("GET", f"/datastore/image?image={image_id}").status == 503
    wait_until(lambda: site.server.infer(image_id).status == 200, "the PACS to be asked again")
    site.pacs.delete(image_id)
    answer = wait_until(lambda: (a := site.server.infer(image_id)).status != 200 and a, "the series to go")
    assert answer.status == 404
    assert answer.reason.endswith(f"no longer has the series {image_id}; it was deleted or moved")
    slicer.connect()
    assert slicer.total == total


def test_a_training_is_followed_and_stopped(site, start, tmp_path):
    slicer = start("trainer")
    label_cases(slicer, site, tmp_path, 2)
    slicer.choose("trainers", MODEL, "max_epochs", 1000)
    assert slicer.train(MODEL)["id"]
    wait_until(lambda: (slicer.connect(), slicer.can_stop)[1], "the training's process", pause_s=0.05)
    assert not slicer.can_train
    other = start("other")
    assert other.can_stop
    assert refusal(lambda: other.train("ALL")) == refusal(lambda: other.train(MODEL))
    assert slicer.look_at_training() == "RUNNING"
    assert slicer.stop_training().startswith("Status: STOPPED\n")
    assert slicer.stop_training() is None
    assert slicer.look_at_training() == "STOPPED"
    assert slicer.can_train


def test_all_trainers_are_followed_to_the_end(site, start, tmp_path):
    slicer = start("trainer")
    label_cases(slicer, site, tmp_path, 2)
    assert list(slicer.train()) == [MODEL]
    wait_until(lambda: (slicer.connect(), slicer.can_stop)[1], "the training's process", pause_s=0.05)
    shown = slicer.training_shown
    wait_until(lambda: slicer.look_at_training() == "DONE", "its end", pause_s=0.2)
    assert set(shown) <= {1, 50.0, 100.0}  # of two epochs; 1 before and after them
    assert len(set(shown)) > 1
    assert slicer.accuracy != "Accuracy: 0.0000"
    assert slicer.can_train
    slicer.connect()
    assert slicer.next_sample()
    assert slicer.segment()["model_version"]


def test_the_end_of_the_work_is_told(site, start, tmp_path):
    slicer = start()
    label_cases(slicer, site, tmp_path, len(site.cases))
    assert slicer.next_sample() is None
    assert slicer.tooltip == f"{len(site.cases)}/{len(site.cases)} samples are labeled"
    assert slicer.active_learning_bar == 100
