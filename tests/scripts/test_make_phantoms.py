import runpy
import sys
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from lib.phantom import make_phantom
from lib.volume import same_geometry
from lib.volume_io import read_image, read_label

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_phantoms.py"
TINY = ("--shape", "32", "32", "12", "--spacing", "11", "11", "18")


@pytest.fixture
def make(capfd, monkeypatch):
    """The script in this process, which spares its start-up time."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return CompletedProcess(sys.argv, stop.value.code, *capfd.readouterr())

    return call


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_writes_a_studies_folder_with_labels(make, tmp_path):
    folder = tmp_path / "new"
    assert make("-o", folder, "--count", 2, "--seed", 5, "--with-labels", *TINY).returncode == 0
    names = ["phantom_0005.nii.gz", "phantom_0006.nii.gz"]
    assert files(folder) == [*(f"labels/final/{name}" for name in names), *names]
    image, label = read_image(folder / names[1]), read_label(folder / "labels" / "final" / names[1])
    expected = make_phantom(6, shape=(32, 32, 12), spacing=(11.0, 11.0, 18.0))
    np.testing.assert_array_equal(image.array, expected.image.array)
    np.testing.assert_array_equal(label.array, expected.label.array)
    assert same_geometry(image, expected.image)
    assert same_geometry(image, label)


def test_without_labels_only_images_as_wished(make, tmp_path):
    assert make("-o", tmp_path, "--orientation", "LPS", "--tumors", 0, "--phase", "native", *TINY).returncode == 0
    assert files(tmp_path) == ["phantom_0001.nii.gz"]
    expected = make_phantom(
        1, shape=(32, 32, 12), spacing=(11.0, 11.0, 18.0), orientation="LPS", tumors=0, phase="native"
    )
    np.testing.assert_array_equal(read_image(tmp_path / "phantom_0001.nii.gz").array, expected.image.array)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: name the folder to write to with -o DIR, or give --sample-data\n"),
        (("-o", "x", "--count", "0"), "error: --count must be 1 or more, not 0\n"),
        (
            ("-o", "/dev/null/x", *TINY),
            "error: can't write to the folder /dev/null/x (Not a directory); "
            "choose another or change its permissions\n",
        ),
        (("-o", "x", "--shape", "4", "4", "4"), "error: a phantom needs at least 16 x 16 x 1 voxels, not (4, 4, 4)\n"),
        (
            ("-o", "x", "--orientation", "UP"),
            "error: the orientation must name each axis once, like 'LPS' or 'RAS', not 'UP'\n",
        ),
    ],
)
def test_a_bad_argument_is_one_line(make, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = make(*arguments)
    assert result.returncode == 2
    assert result.stderr == message
    assert files(tmp_path) == []


def test_a_file_in_place_of_the_folder_is_refused(make, tmp_path):
    (tmp_path / "taken").write_text("")
    result = make("-o", tmp_path / "taken", *TINY)
    assert result.returncode == 2
    assert result.stderr.endswith("taken is a file; name a folder\n")
