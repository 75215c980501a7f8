"""`scripts/prepare_lits.py` as a user runs it."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_lits.py"
SHAPE = (16, 16, 6)
UNWRITABLE = "(Not a directory); choose another or change its permissions"


def prepare(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def write_pair(folder, number, shift=0.0, highest=2):
    array = np.zeros(SHAPE, np.uint8)
    array[4:12, 4:12, 1:5] = 1
    array[6:8, 6:8, 2:4] = highest
    hu = np.where(array > 0, 90, -100).astype(np.int16)
    hu[array == 2] = 40
    affine = np.eye(4)
    (folder / "volume_pt1").mkdir(parents=True, exist_ok=True)
    (folder / "segmentations").mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(hu, affine), folder / "volume_pt1" / f"volume-{number}.nii")
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(array, affine), folder / "segmentations" / f"segmentation-{number}.nii")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "kaggle"
    for number in (0, 1):
        write_pair(folder, number)
    return folder


def test_a_clean_set_is_linked_and_sliced_and_done_when_run_again(source, tmp_path):
    arguments = (source, tmp_path / "studies", "--slices", tmp_path / "slices")
    first = prepare(*arguments)
    assert first.returncode == 0, first.stderr
    assert "2 cases (2 hard link), 0 labels with a corrected header, 0 refused, 0 without a partner" in first.stdout
    assert "4 slices written" in first.stdout
    for number in (0, 1):
        image = tmp_path / "studies" / f"volume-{number}.nii"
        label = tmp_path / "studies" / "labels" / "final" / f"volume-{number}.nii"
        assert image.samefile(source / "volume_pt1" / f"volume-{number}.nii")
        assert label.samefile(source / "segmentations" / f"segmentation-{number}.nii")
    assert len(list((tmp_path / "slices" / "images").glob("*.png"))) == 4

    second = prepare(*arguments)
    assert second.returncode == 0
    assert "2 cases (2 done before)" in second.stdout
    assert "slices written" not in second.stdout


def test_refused_cases_are_named_the_rest_is_done_and_the_exit_code_is_1(source, tmp_path):
    write_pair(source, 2, shift=30.0)
    write_pair(source, 3, highest=9)
    write_pair(source, 4, shift=0.5)
    write_pair(source, 5)
    (source / "segmentations" / "segmentation-5.nii").unlink()
    result = prepare(source, tmp_path / "studies")
    assert result.returncode == 1
    assert "refused: segmentation-2.nii: its header places voxels up to 30.0 mm away" in result.stdout
    assert "refused: segmentation-3.nii: holds the values [9]" in result.stdout
    assert "note: segmentation-4.nii: header off by 0.50 mm" in result.stderr
    assert f"no partner for {source / 'volume_pt1' / 'volume-5.nii'}" in result.stdout
    assert "3 cases (3 hard link), 1 labels with a corrected header, 2 refused, 1 without a partner" in result.stdout
    assert sorted(path.name for path in (tmp_path / "studies").glob("*.nii")) == [f"volume-{n}.nii" for n in (0, 1, 4)]

    trusted = prepare(source, tmp_path / "studies", "--by-voxel")
    assert trusted.returncode == 1
    assert "4 cases (1 hard link, 3 done before), 1 labels with a corrected header, 1 refused" in trusted.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing", "studies"), "error: missing: there is no such folder\n"),
        ((".", "/dev/null/x"), f"error: can't write to the folder /dev/null/x {UNWRITABLE}\n"),
        ((".", "studies", "--slices", "/dev/null/x"), f"error: can't write to the folder /dev/null/x {UNWRITABLE}\n"),
        ((".", "studies", "--all-slices"), "error: --all-slices needs --slices OUT\n"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(arguments, message):
    result = prepare(*arguments)
    assert (result.returncode, result.stderr) == (2, message)
