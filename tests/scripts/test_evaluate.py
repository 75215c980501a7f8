import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.volume import Volume
from lib.volume_io import write_image, write_label

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate.py"
AFFINE = np.diag([-1.0, -1.0, 4.0, 1.0])


def run_as_program(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def evaluate(capfd, monkeypatch):
    """The script in this process, which spares its start-up time."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return subprocess.CompletedProcess(sys.argv, stop.value.code, *capfd.readouterr())

    return call


def labels(lesion=3):
    array = np.zeros((20, 18, 7), np.uint8)
    array[4:16, 4:14, 1:6] = 1
    array[6 : 6 + lesion, 6:9, 2:5] = 2
    return array


@pytest.fixture
def folders(tmp_path):
    for number, lesion in ((0, 3), (1, 2)):
        write_label(tmp_path / "r" / f"segmentation-{number}.nii", Volume(labels(), AFFINE))
        write_label(tmp_path / "p" / f"volume-{number}.nii.gz", Volume(labels(lesion), AFFINE))
        hu = np.random.default_rng(number).integers(-60, 120, labels().shape).astype(np.int16)
        write_image(tmp_path / "i" / f"volume-{number}.nii.gz", Volume(hu, AFFINE))
    return tmp_path


def required(folder):
    return "--reference", folder / "r", "--prediction", folder / "p", "--json", folder / "out" / "scores.json"


def error_of(result):
    """The one line on stderr of a refused call."""
    assert result.returncode == 2
    assert result.stdout == ""
    lines = [line for line in result.stderr.replace("\r", "\n").splitlines() if "case/s]" not in line and line.strip()]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_writes_all_reports(folders):
    result = run_as_program(
        *required(folders), "--csv", folders / "out.csv", "--html", folders / "out.html", "--images", folders / "i",
        "--workers", 2,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "2/2" in result.stderr
    scores = json.loads((folders / "out" / "scores.json").read_text())
    assert scores["lesion_dice_per_case"] == pytest.approx((1 + 2 * 18 / 45) / 2)
    assert scores["lesion_recall"] == 1
    assert [case["name"] for case in scores["cases"]] == ["segmentation-0", "segmentation-1"]
    assert len(list(csv.DictReader((folders / "out.csv").open()))) == 2
    page = (folders / "out.html").read_text()
    assert page.count("<figcaption>Image</figcaption>") == 4  # two slices 10 mm apart in each case
    assert f"{scores['lesion_dice_per_case']:.3f}" in result.stdout
    assert not list(folders.rglob(".writing-*"))


def test_unpaired_files_are_named(folders, evaluate):
    (folders / "p" / "volume-1.nii.gz").rename(folders / "p" / "volume-2.nii.gz")
    error = error_of(evaluate(*required(folders)))
    assert error == (
        "error: no prediction for 1 of the files: segmentation-1.nii; no reference for 1 of the files: "
        "volume-2.nii.gz; add or rename them, or use --allow-missing to score the rest"
    )
    assert not (folders / "out").exists()


def test_allow_missing_scores_the_rest_and_lists_them(folders, evaluate):
    (folders / "p" / "volume-1.nii.gz").unlink()
    result = evaluate(*required(folders), "--allow-missing")
    assert result.returncode == 0
    assert "warning: no prediction for 1 of the files: segmentation-1.nii" in result.stderr
    scores = json.loads((folders / "out" / "scores.json").read_text())
    assert scores["counts"]["cases"] == 1
    assert scores["meta"]["reference_only"] == [str(folders / "r" / "segmentation-1.nii")]


def test_no_pair_at_all(folders, evaluate):
    for path in (folders / "p").iterdir():
        path.rename(path.with_name(f"x-{path.name}"))
    error = error_of(evaluate(*required(folders), "--allow-missing"))
    assert error.startswith("error: no file of the reference folder has a partner in the prediction folder")


def test_another_shape(folders, evaluate):
    write_label(folders / "p" / "volume-1.nii.gz", Volume(labels()[:, :, :6], AFFINE))
    error = error_of(evaluate(*required(folders), "--workers", 1))
    assert "volume-1.nii.gz: its shape (20, 18, 6) differs from the shape (20, 18, 7) of the reference" in error


def test_another_affine(folders, evaluate):
    write_label(folders / "p" / "volume-1.nii.gz", Volume(labels(), np.diag([1.0, -1.0, 4.0, 1.0])))
    assert "volume-1.nii.gz: its affine puts voxels up to 38.00 mm away" in error_of(evaluate(*required(folders)))
    assert evaluate(*required(folders), "--ignore-affine").returncode == 0


def test_wrong_values(folders, evaluate):
    write_label(folders / "p" / "volume-0.nii.gz", Volume(labels() * 3, AFFINE))
    assert "volume-0.nii.gz: holds the values 3, 6; expected only 0" in error_of(evaluate(*required(folders)))


def test_truncated_file(folders, evaluate):
    path = folders / "p" / "volume-0.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    assert "volume-0.nii.gz: not a readable .nii.gz file" in error_of(evaluate(*required(folders)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "error: --workers must be at least 1, not 0; see evaluate.py --help"),
        (["--slices", "-1"], "error: --slices can't be negative, not -1; see evaluate.py --help"),
        (["--images", "nowhere"], "error: --images: there is no folder nowhere; see evaluate.py --help"),
        (["--images", "."], "error: --images is for the pictures of --html OUT; give both; see evaluate.py --help"),
        (["--nonsense"], "error: unrecognized arguments: --nonsense; see evaluate.py --help"),
    ],
)
def test_bad_arguments(folders, evaluate, arguments, message):
    assert error_of(evaluate(*required(folders), *arguments)) == message


def test_outputs_are_checked_before_the_work(folders, evaluate):
    (folders / "file").write_text("")
    taken = folders / "file" / "page.html"
    assert error_of(evaluate(*required(folders), "--html", taken)) == (
        f"error: can't write to the folder {taken.parent} (Not a directory); choose another or change its permissions"
    )
    same = folders / "p" / ".." / "out" / "scores.json"
    assert error_of(evaluate(*required(folders), "--csv", same)) == (
        f"error: {same} is named for two reports; give each a file of its own"
    )
    assert not (folders / "out").exists()


def test_help_and_missing_folder(tmp_path, evaluate):
    assert "--allow-missing" in evaluate("--help").stdout
    assert error_of(evaluate(*required(tmp_path))) == f"error: {tmp_path / 'r'}: there is no such folder"
