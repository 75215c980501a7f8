import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.inference.model import new_network
from lib.networks.checkpoint import save_weights
from lib.settings import Settings
from lib.volume import Volume
from lib.volume_io import read_label, write_image

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "infer.py"
NETWORK = {"filters": [4, 4, 8, 8, 8]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    save_weights(path, new_network(Settings.model_validate({"network": {"arguments": NETWORK}})), {"version": "v1"})
    return path


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    for seed, name in enumerate(("a.nii.gz", "b.nrrd")):
        hu = np.random.default_rng(seed).integers(-1000, 300, (20, 24, 6)).astype(np.int16)
        write_image(folder / name, Volume(hu, np.diag([-1.0, 1.0, 3.0, 1.0])))
    return folder


@pytest.fixture
def infer(weights, monkeypatch, capsys):
    def run(*arguments, given=True):
        options = ["--weights", weights, "--conf", "network.arguments", json.dumps(NETWORK), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, [*arguments, *(options if given else [])])])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        output = capsys.readouterr()
        return exited.value.code, output.out, output.err

    return run


def test_a_studies_folder(infer, studies, tmp_path):
    code, output, progress = infer(studies, "-o", tmp_path / "out", "--json", tmp_path / "out" / "summary.json")
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.nii.gz", "b.nii.gz", "records", "summary.json"}
    assert read_label(tmp_path / "out" / "b.nii.gz").shape == (20, 24, 6)
    lines = output.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(studies / "a.nii.gz"), str(studies / "b.nrrd")]
    assert all(" ml, " in line and " s -> " in line and "lesion" in line for line in lines)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["failed"], summary["model_version"], len(summary["cases"])) == (0, "v1", 2)
    assert summary["cases"][0]["seconds"]["total"] > 0
    assert "2/2" in progress
    assert "slice" in progress


def test_a_bad_case_does_not_stop_the_others(infer, studies, tmp_path):
    (studies / "aa.nii.gz").write_bytes(b"no CT")
    code, output, error = infer(studies, "-o", tmp_path / "out", "--json", tmp_path / "summary.json")
    assert code == 1
    assert len(output.splitlines()) == 2
    assert "error: aa.nii.gz: not a readable .nii.gz file" in error
    summary = f"1 of 3 cases could not be segmented:\n  {studies / 'aa.nii.gz'}: aa.nii.gz: not a readable .nii.gz file"
    assert summary in error
    cases = json.loads((tmp_path / "summary.json").read_text())["cases"]
    assert ["error" in case for case in cases] == [False, True, False]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.nii.gz", "b.nii.gz", "records"}


def test_the_same_command_goes_on_where_it_was_stopped(infer, studies, tmp_path):
    command = (studies, "-o", tmp_path / "out", "--json", tmp_path / "s.json")
    infer(*command)
    (tmp_path / "out" / "b.nii.gz").unlink()
    code, output, _ = infer(*command)
    assert code == 0
    assert ["done before" in line for line in output.splitlines()] == [True, False]
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["failed"], summary["skipped"], len(summary["cases"])) == (0, 1, 2)
    _, output, _ = infer(*command, "--again")
    assert "done before" not in output


def test_kind_of_file_planes_and_switches(infer, studies, tmp_path):
    code, _, _ = infer(
        studies / "a.nii.gz", "-o", tmp_path / "out", "--extension", ".seg.nrrd", "--planes", "images",
        "--conf", "postprocessing.largest_liver", "false", "--json", tmp_path / "s.json",
    )  # fmt: skip
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.seg.nrrd", "a_planes", "records"}
    assert not json.loads((tmp_path / "s.json").read_text())["postprocessing"]["largest_liver"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["STUDIES"], "error: the following arguments are required: -o/--output; see infer.py --help"),
        (["nowhere", "-o", "OUT"], "error: there is no image or folder nowhere"),
        (["STUDIES", "-o", "STUDIES"], "a.nii.gz would overwrite the image"),
        (["STUDIES", "-o", "OUT", "--extension", ".png"], "error: argument --extension: invalid choice: '.png'"),
        (["STUDIES", "-o", "/dev/null/out"], "error: can't write to the folder /dev/null/out (Not a directory)"),
        (["STUDIES", "-o", "OUT", "--json", "STUDIES"], "it is a folder; name a file"),
        (["STUDIES", "-o", "OUT", "--app", "nowhere"], "error: nowhere is not an app folder: it has no app.yaml"),
        (["STUDIES", "-o", "OUT", "--weights", "nowhere.pt"], "error: there is no weights file nowhere.pt"),
        (["STUDIES", "-o", "OUT", "--conf", "a.b", "1"], "error: --conf: unknown key a"),
    ],
)
def test_wrong_input_is_one_line(infer, studies, tmp_path, arguments, message):
    named = {"STUDIES": studies, "OUT": tmp_path / "out"}
    code, output, error = infer(*(named.get(argument, argument) for argument in arguments), given=False)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert output == ""
    assert not (tmp_path / "out").exists()


def test_help(infer):
    code, output, _ = infer("--help", given=False)
    assert code == 0
    assert all(option in output for option in ("--planes", "--weights", "--json", "DICOM"))
