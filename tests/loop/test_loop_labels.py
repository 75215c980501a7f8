import re

import nibabel as nib
import numpy as np
import pytest
from monailabel.client.client import MONAILabelClientException

from lib.labels import DEFAULT_LABELS, NOT_LOOKED_AT
from lib.volume import Volume
from lib.volume_io import read_label, write_label
from tests.loop.running_server import MODEL, wait_until
from tests.loop.studies import manifest, oriented

pytestmark = pytest.mark.server

CASE = "case_22"
_TUMOR = 2
_LOGS = {"run/server.log", "app/logs/app.log"}
_SAVED = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]


@pytest.fixture
def truth(cases, server):
    """The case's true label; what a test saves is taken away afterwards."""
    yield cases[CASE].label
    if "final" in server.client().datastore()["objects"][CASE]["labels"]:
        assert server.ask("DELETE", f"/datastore/label?id={CASE}&tag=final").status == 200
        wait_until(lambda: "final" not in server.client().datastore()["objects"][CASE]["labels"], "the label to go")


def save(client, folder, label, label_info=None, extension=".nii.gz"):
    path = folder / f"corrected{extension}"
    write_label(path, label, DEFAULT_LABELS)
    return client.save_label(CASE, str(path), params={"label_info": label_info} if label_info else {})


def saved(client):
    image = nib.load(client.download_label(CASE, "final"))
    return np.asarray(image.dataobj), image.affine


def recolored(label, values):
    """The label with other values: `{2: 1}` keeps the tumor alone as value 1."""
    array = np.zeros_like(label.array)
    for old, new in values.items():
        array[label.array == old] = new
    return Volume(array, label.affine)


def test_an_edited_answer_is_saved_and_leaves_the_pool(client, server, truth, tmp_path):
    before = client.info()["datastore"]["completed"]
    answer, _ = client.infer(MODEL, CASE, {"result_extension": ".nii.gz"})
    image = nib.load(answer)
    edited = Volume(np.asarray(image.dataobj).copy(), image.affine)
    edited.array[40:44, 40:44, 8] = _TUMOR
    answer = save(client, tmp_path, edited, _SAVED)
    assert (answer["image"], answer["label"], answer["tag"], answer["version"]) == (CASE, CASE, "final", 1)
    np.testing.assert_array_equal(saved(client)[0], edited.array)
    entry = client.datastore()["objects"][CASE]["labels"]["final"]
    assert entry["info"]["label_info"] == _SAVED
    assert entry["info"]["client_id"] == "annotator"
    assert client.info()["datastore"]["completed"] == before + 1
    assert {client.next_sample("random", {})["id"] for _ in range(8)}.isdisjoint({CASE})


def test_a_label_of_some_slices_goes_round(client, server, truth, tmp_path):
    answer, _ = client.infer(MODEL, CASE, {"result_extension": ".nii.gz"})
    automatic = read_label(answer)
    corrected, axial = corrected_in(automatic, 7)
    axial[7:9, 0, 0] = 3  # strokes that say which slices were looked at
    named = [*_SAVED, {"name": "looked at", "idx": 3}]
    answer = save(client, tmp_path, corrected, named)
    version = answer["version"]
    assert (answer["looked_at_slices"], answer["slices"]) == (2, 16)
    first = read_label(client.download_label(CASE, "final"))
    assert (np.delete(first.axial(), [7, 8], axis=0) == NOT_LOOKED_AT).all()
    np.testing.assert_array_equal(first.axial()[7:9, 1:], axial[7:9, 1:])

    # The next one corrects it as 3D Slicer does: the k-th name is a segment of the voxels with the value k.
    reviewer = server.client("reviewer")
    assert reviewer.next_sample("review", {})["id"] == CASE
    names = reviewer.datastore()["objects"][CASE]["labels"]["original"]["info"]["params"]["label_names"]
    loaded = read_label(reviewer.download_label(CASE, "original"))
    assert np.unique(loaded.array).tolist() == [0, 1, 2, 3]
    corrected, axial = corrected_in(loaded, 8)
    answer = save(reviewer, tmp_path, corrected, [{"name": name, "idx": k} for k, name in enumerate(names, start=1)])
    assert (answer["version"], answer["looked_at_slices"]) == (version + 1, 2)
    second = read_label(client.download_label(CASE, "final"))
    np.testing.assert_array_equal(second.array, np.where(corrected.array == 3, NOT_LOOKED_AT, corrected.array))

    # A correction where no stroke is would be lost.
    corrected, axial = corrected_in(automatic, 5)
    axial[7:9, 0, 0] = 3
    with pytest.raises(MONAILabelClientException) as refusal:
        save(client, tmp_path, corrected, named)
    assert "something was painted in the axial slice 5 (0 is nearest the feet), outside the" in refusal.value.msg


def corrected_in(label, z):
    """The label with a tumor in a corner of an axial slice, and a view of its slices."""
    corrected = Volume(label.array.copy(order="K"), label.affine)
    axial = corrected.axial()
    axial[z, 2:6, 2:6] = _TUMOR
    return corrected, axial


# What 3D Slicer sends: the k-th exported segment is value k, `idx` counts the skipped segments too.
_BY_NAME = {
    "in our order": ({1: 1, 2: 2}, [("liver", 1), ("tumor", 2)]),
    "other spelling": ({1: 1, 2: 2}, [("Liver", 1), ("Liver_Tumour", 2)]),
    "tumor alone": ({2: 1}, [("tumor", 1)]),
    "tumor alone after a skipped liver": ({2: 1}, [("Tumor", 2)]),
    "reordered": ({2: 1, 1: 2}, [("tumour", 1), ("LIVER", 2)]),
    "after skipped scribbles": ({1: 1, 2: 2}, [("liver", 3), ("tumor", 4)]),
    "an empty segment between": ({1: 1, 2: 3}, [("liver", 1), ("background", 2), ("lesion", 3)]),
}


@pytest.mark.parametrize("case", _BY_NAME)
def test_segments_are_mapped_by_name(client, truth, tmp_path, case):
    values, names = _BY_NAME[case]
    sent = recolored(truth, values)
    info = [{"name": name, "idx": number} for name, number in names]
    save(client, tmp_path, sent, info)
    expected = np.where(np.isin(truth.array, list(values)), truth.array, 0)
    np.testing.assert_array_equal(saved(client)[0], expected)
    stored = client.datastore()["objects"][CASE]["labels"]["final"]["info"]
    assert stored["label_info"] == _SAVED
    assert stored["client_label_info"] == info


def test_scribbles_become_background(client, truth, tmp_path):
    sent = recolored(truth, {1: 2, 2: 3})
    sent.array[0, :, 0] = 1
    names = ("foreground_scribbles", "liver", "tumor", "background_scribbles")
    save(client, tmp_path, sent, [{"name": name, "idx": index} for index, name in enumerate(names, start=1)])
    np.testing.assert_array_equal(saved(client)[0], truth.array)


def test_without_names_the_values_are_ours(client, truth, tmp_path):
    save(client, tmp_path, truth)
    np.testing.assert_array_equal(saved(client)[0], truth.array)


def test_an_empty_label_says_that_there_is_no_liver(client, truth, tmp_path):
    save(client, tmp_path, recolored(truth, {}), [{"name": "liver", "idx": 1}])
    assert not saved(client)[0].any()


@pytest.mark.parametrize("extension", [".nii", ".nrrd", ".seg.nrrd"])
def test_every_format_is_stored_as_one(client, server, truth, tmp_path, extension):
    save(client, tmp_path, truth, _SAVED, extension)
    np.testing.assert_array_equal(saved(client)[0], truth.array)
    assert [path.name for path in (server.studies / "labels" / "final").iterdir()] == [f"{CASE}.nii.gz"]


@pytest.mark.parametrize("codes", ["RAS", "SAL"])
def test_a_label_in_another_voxel_order_lands_on_the_images_grid(client, server, truth, tmp_path, codes):
    save(client, tmp_path, oriented(truth, codes), _SAVED)
    array, affine = saved(client)
    np.testing.assert_array_equal(array, truth.array)
    assert np.array_equal(affine, nib.load(server.studies / f"{CASE}.nii.gz").affine)


def moved(label, millimeters):
    affine = label.affine.copy()
    affine[2, 3] += millimeters
    return Volume(label.array, affine)


def mirrored(label):
    return Volume(label.array, label.affine @ np.diag([-1.0, 1.0, 1.0, 1.0]))


_REFUSED = {
    "unknown name": (
        lambda label: label,
        [{"name": "liver", "idx": 1}, {"name": "Spleen", "idx": 2}],
        "the segment 'Spleen' is not one of ['liver', 'tumor'] nor a known spelling of them",
    ),
    "unknown value": (
        lambda label: recolored(label, {1: 1, 2: 7}),
        None,
        "the label holds the values [7], but only {'liver': 1, 'tumor': 2} are known and no label_info names them",
    ),
    "value without a name": (
        lambda label: recolored(label, {1: 1, 2: 5}),
        [{"name": "liver", "idx": 1}],
        "the label holds the value 5, which label_info {1: 'liver'} does not name",
    ),
    "one number twice": (
        lambda label: label,
        [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 1}],
        "label_info gives one idx to several segments",
    ),
    "another shape": (
        lambda label: Volume(label.array[:, :, :-1], label.affine),
        None,
        "the label has (96, 96, 15) voxels, its image (96, 96, 16); save it on the image's grid",
    ),
    "another place": (
        lambda label: moved(label, 25.0),
        None,
        "the label lies up to 25.0 mm away from its image (allowed 1 mm); it belongs to another image or was moved",
    ),
    "another spacing": (
        lambda label: Volume(label.array, label.affine @ np.diag([1.1, 1.1, 1.0, 1.0])),
        None,
        "mm away from its image (allowed 1 mm)",
    ),
    "mirrored": (mirrored, None, "mm away from its image (allowed 1 mm)"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_a_label_that_does_not_fit_is_refused_with_the_reason(client, server, truth, tmp_path, case):
    change, names, reason = _REFUSED[case]
    before = manifest(server.studies)
    with pytest.raises(MONAILabelClientException) as refusal:
        save(client, tmp_path, change(truth), names)
    assert refusal.value.msg.startswith("Status: 400; Response: ")
    assert reason in refusal.value.msg
    where = re.search(r"\(what was sent is kept as (labels/refused/\S+)\)", refusal.value.msg)
    assert where is not None
    assert (server.studies / where[1]).read_bytes() == (tmp_path / "corrected.nii.gz").read_bytes()
    assert manifest(server.studies) == before
    assert client.info()["datastore"]["label_tags"].get("final", 0) == 0


def _write_values(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)


_UNREADABLE = {
    "empty": (lambda path, label: path.write_bytes(b""), "label for image 'case_22': the file is empty"),
    "truncated": (
        lambda path, label: (write_label(path, label), path.write_bytes(path.read_bytes()[:200])),
        "label for image 'case_22': not a readable .nii.gz file (truncated",
    ),
    "fractions": (
        lambda path, label: _write_values(path, label.array * np.float32(0.5), label.affine),
        "label for image 'case_22': label values are not whole numbers",
    ),
    "negative": (
        lambda path, label: _write_values(path, -label.array.astype(np.int16), label.affine),
        "label for image 'case_22': label values run from -2 to 0; expected whole numbers from 0 to 255",
    ),
    "not a number": (
        lambda path, label: _write_values(path, np.full(label.shape, np.nan, np.float32), label.affine),
        "label for image 'case_22': label values run from nan to nan",
    ),
    "four axes": (
        lambda path, label: _write_values(path, np.stack([label.array] * 2, axis=-1), label.affine),
        "label for image 'case_22': has 4 axes (96, 96, 16, 2); expected one 3D volume",
    ),
}


@pytest.mark.parametrize("case", _UNREADABLE)
def test_a_label_that_can_not_be_read_is_refused_by_its_images_name(server, truth, tmp_path, case):
    write, reason = _UNREADABLE[case]
    path = tmp_path / "label.nii.gz"
    write(path, truth)
    before = manifest(server.studies)
    with path.open("rb") as content:
        answer = server.ask("PUT", f"/datastore/label?image={CASE}", files={"label": (path.name, content)})
    assert answer.status == 400
    assert reason in answer.reason
    assert manifest(server.studies) == before


def test_a_label_for_a_missing_image_is_refused(client, server, truth, tmp_path):
    path = tmp_path / "label.nii.gz"
    write_label(path, truth)
    before = manifest(server.studies)
    with pytest.raises(MONAILabelClientException) as refusal:
        client.save_label("nobody", str(path))
    assert refusal.value.msg.startswith("Status: 404; Response: ")
    assert "there is no image 'nobody' in the studies folder" in refusal.value.msg
    assert manifest(server.studies) == before


@pytest.mark.parametrize("tag", ["../x", "..", "a/b", "/etc", ".hidden"])
def test_a_tag_is_no_path(client, server, truth, tmp_path, tag):
    path = tmp_path / "label.nii.gz"
    write_label(path, truth)
    before = manifest(server.studies.parent)
    with pytest.raises(MONAILabelClientException) as refusal:
        client.save_label(CASE, str(path), tag=tag)
    assert refusal.value.msg.startswith("Status: 400; Response: ")
    assert f"label tag '{tag}' is not allowed" in refusal.value.msg
    after = manifest(server.studies.parent)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} <= _LOGS
