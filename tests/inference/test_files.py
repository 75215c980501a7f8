import json
from pathlib import Path

import numpy as np
import pytest

from lib.errors import BadInputError
from lib.inference.files import Job, one_line, plan_jobs, run_job
from lib.volume_io import read_label, write_image


def test_labels_are_named_after_images_and_dicom_folders(tmp_path):
    jobs = plan_jobs([Path("a/ct.nii.gz"), tmp_path / "series"], tmp_path / "out", ".seg.nrrd")
    assert [job.label.name for job in jobs] == ["ct.seg.nrrd", "series.seg.nrrd"]


def test_the_folder_that_one_stands_in_has_a_name_too(tmp_path, monkeypatch):
    (tmp_path / "series").mkdir()
    monkeypatch.chdir(tmp_path / "series")
    assert plan_jobs([Path(".")], tmp_path, ".nii.gz")[0].label == tmp_path / "series.nii.gz"


def test_the_name_of_a_link_counts(tmp_path):
    (tmp_path / "case_1.nii.gz").symlink_to(tmp_path / "volume-7.nii.gz")
    assert plan_jobs([tmp_path / "case_1.nii.gz"], tmp_path / "out", ".nii")[0].label.name == "case_1.nii"


def test_two_images_of_one_name(tmp_path):
    with pytest.raises(BadInputError, match=r"a/ct\.nii and b/ct\.nrrd would both be written to .*ct\.nii\.gz"):
        plan_jobs([Path("a/ct.nii"), Path("b/ct.nrrd")], tmp_path, ".nii.gz")


def test_no_label_over_an_image():
    with pytest.raises(BadInputError, match=r"the label of a/\.\./a/ct\.nrrd would overwrite the image a/ct\.nrrd"):
        plan_jobs([Path("a/../a/ct.nrrd")], Path("a"), ".nrrd")


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".nrrd", ".seg.nrrd"])
def test_a_case_from_file_to_file(ct, model, settings, tmp_path, extension):
    write_image(tmp_path / "ct.nii.gz", ct)
    steps = []
    job = Job(tmp_path / "ct.nii.gz", tmp_path / "out" / f"ct{extension}")
    record = run_job(job, model, settings, on_slices=lambda done, slices: steps.append((done, slices)))
    label = read_label(job.label)
    assert label.shape == ct.shape
    np.testing.assert_allclose(label.affine, ct.affine, atol=1e-5)
    assert steps == [(0, 5), (4, 5), (1, 5)]
    assert list(record["seconds"]) == ["read", "locate", "windows", "network", "postprocessing", "write", "total"]
    assert record["seconds"]["total"] == pytest.approx(sum(list(record["seconds"].values())[:-1]))
    assert json.loads(json.dumps(record)) == record
    voxels = {name: round(volume / ct.voxel_ml) for name, volume in record["volumes_ml"].items()}
    assert voxels == {"liver": int((label.array == 1).sum()), "tumor": int((label.array == 2).sum())}


def test_planes_beside_the_label(ct, model, settings, tmp_path):
    write_image(tmp_path / "ct.nrrd", ct)
    job = Job(tmp_path / "ct.nrrd", tmp_path / "out" / "ct.nii.gz")
    assert run_job(job, model, settings, planes="images")["planes"] == str(tmp_path / "out" / "ct_planes")
    assert len(list((tmp_path / "out" / "ct_planes").rglob("*.png"))) == 2 * 5
    assert run_job(job, model, settings, planes="seg.nrrd")["planes"].endswith("ct_planes.seg.nrrd")
    assert "planes" not in run_job(job, model, settings)


def test_one_line_for_the_terminal():
    record = {
        "image": "a.nii", "label": "out/a.nii.gz", "volumes_ml": {"liver": 1480.04, "tumor": 3.21}, "lesion_count": 1,
        "seconds": {"total": 12.34},
    }  # fmt: skip
    assert one_line(record) == "a.nii: liver 1480.0 ml, tumor 3.2 ml, 1 lesion, 12.3 s -> out/a.nii.gz"
    assert "2 lesions" in one_line(record | {"lesion_count": 2})
    assert one_line(record | {"skipped": True}).endswith(", 1 lesion, done before -> out/a.nii.gz")
