import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.errors import StorageError
from lib.networks.checkpoint import load_weights
from lib.networks.unet import MulticlassUNet
from lib.phantom import make_phantom
from lib.training.state import save_state
from lib.volume_io import write_image, write_label

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "train.py"
FILTERS = [4, 4, 8, 8, 8]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    for seed, (image, label) in enumerate(((".nii.gz", ".nrrd"), (".nrrd", ".nii.gz"), (".nii", ".nii"))):
        phantom = make_phantom(seed, shape=(48, 48, 10), tumors=4)
        write_image(folder / f"case_{seed}{image}", phantom.image)
        write_label(folder / "labels" / "final" / f"case_{seed}{label}", phantom.label)
    return folder


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app").mkdir()
    shutil.copy(REPOSITORY / "apps" / "liver_tumor" / "app.yaml", tmp_path / "app")
    return tmp_path / "app"


def options(app):
    """Those of every training here."""
    conf = {
        "network.arguments": json.dumps({"filters": FILTERS}), "training.patch_size": 48,
        "training.slices_per_case": 4, "training.cross_validate_below": 0,
    }  # fmt: skip
    given = [part for key, value in conf.items() for part in ("--conf", key, str(value))]
    return ["--app", str(app), "--device", "cpu", *given]  # first, so that a test can choose another device


@pytest.fixture
def train(app, monkeypatch, capsys):
    """Runs the script in this process, as importing torch takes longer than these trainings."""
    threads = torch.get_num_threads()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options(app), *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        output = capsys.readouterr()
        return exited.value.code, output.out, output.err

    yield run
    torch.set_num_threads(threads)


def tensors(path):
    network = MulticlassUNet(filters=FILTERS)
    meta = load_weights(path, network)
    return meta, network.state_dict()


def content(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_data_and_threads_give_the_same_weights_and_the_app_is_left_alone(train, studies, app, tmp_path):
    before = content(app)
    common = (studies, "--start", "scratch", "--epochs", 2, "--threads", 1)
    code, output, progress = train(*common, "-o", tmp_path / "first")
    assert code == 0
    made = {path.parent.parent for path in content(app).keys() - before.keys()}
    assert made == {app / "model" / "versions", app / "model" / "cache"}
    assert content(app).items() >= before.items()
    assert train(*common, "-o", tmp_path / "again")[0] == 0
    (meta, first), (_, again) = (tensors(tmp_path / name / "model.pt") for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)

    assert "epoch 2/2" in progress
    assert "loss=" in progress
    assert "1 training and 2 validation cases" in output or "2 training and 1 validation cases" in output
    assert "cpu, 1 threads; start: new weights" in output
    assert [line for line in output.splitlines() if line.startswith("epoch 2/2: loss ")]
    assert "before training and the best epoch of 2:" in output
    for name in ("curves.png", "history.csv", "model.pt"):
        assert (tmp_path / "first" / name).is_file()
        assert str(tmp_path / "first" / name) in output
    assert "not published: not asked to publish; validation Dice " in output
    assert meta["recipe"]["max_epochs"] == 2


def test_publishing_and_going_on_from_it(train, studies, app, tmp_path):
    code, output, _ = train(studies, "-o", tmp_path / "a", "--start", "scratch", "--epochs", 1, "--publish")
    published = app / "model" / "liver_tumor.pt"
    assert code == 0
    assert f"in force     {published}" in output
    version = tensors(published)[0]["version"]
    code, output, _ = train(studies, "-o", tmp_path / "b", "--epochs", 1)
    assert f"start: {published}" in output
    assert tensors(tmp_path / "b" / "model.pt")[0]["started_from"] == "liver_tumor.pt"
    assert tensors(published)[0]["version"] == version
    code, output, _ = train(studies, "-o", tmp_path / "c", "--epochs", 1, "--start", tmp_path / "a" / "best.pt")
    assert f"start: {tmp_path / 'a' / 'best.pt'}" in output
    kept = json.loads((tmp_path / "b" / "model.json").read_text())["version"]
    code, output, _ = train(studies, "-o", tmp_path / "d", "--epochs", 1, "--start", kept)
    assert f"start: {app / 'model' / 'versions' / kept / 'model.pt'}" in output
    assert tensors(tmp_path / "d" / "model.pt")[0]["parent"] == kept


def test_a_label_of_another_numbering_is_left_out_by_name(train, studies, tmp_path):
    copied = shutil.copytree(studies, tmp_path / "studies")
    phantom = make_phantom(0, shape=(48, 48, 10), tumors=4)
    label = type(phantom.label)(phantom.label.array * np.uint8(5), phantom.label.affine)
    write_label(copied / "labels" / "final" / "case_0.nrrd", label)
    code, output, _ = train(copied, "-o", tmp_path / "run", "--start", "scratch", "--epochs", 1)
    assert code == 0
    assert "1 training and 1 validation cases from" in output
    assert "left out: case_0: case_0: the label holds 10, but only 0 to 2 are classes" in output
    manifest = json.loads((tmp_path / "run" / "model.json").read_text())
    assert sorted(manifest["training_cases"] + manifest["validation_cases"]) == ["case_1", "case_2"]
    for number in (1, 2):
        (label,) = (copied / "labels" / "final").glob(f"case_{number}.*")
        label.write_bytes(b"")
    code, _, error = train(copied, "-o", tmp_path / "next", "--start", "scratch")
    assert code == 2
    assert error.splitlines()[-1].startswith("error: none of the 3 labelled cases can be used: case_0: the label holds")


def test_only_a_look_at_what_a_training_would_take(train, studies, app, tmp_path):
    before = content(app)
    code, output, _ = train(studies, "-o", tmp_path / "run", "--start", "scratch", "--epochs", 7, "--check")
    assert code == 0
    lines = output.splitlines()
    assert [line.split(":")[0] for line in lines[4:]] == ["disk", "memory", "time", "warning"]
    assert " for 7 epochs of " in lines[6]
    assert "3 patients are labelled" in lines[7]
    assert not (tmp_path / "run").exists()
    assert content(app) == before


def test_going_on_after_an_interruption(train, studies, tmp_path, monkeypatch):
    common = (studies, "--epochs", 2, "--threads", 1)
    assert train(*common, "--start", "scratch", "-o", tmp_path / "straight")[0] == 0
    calls = []

    def fail(*given):
        calls.append(given)
        if len(calls) == 3:
            raise StorageError("the disk is full")
        save_state(*given)

    with monkeypatch.context() as patch:
        patch.setattr("lib.training.run.save_state", fail)
        assert train(*common, "--start", "scratch", "-o", tmp_path / "run")[0] != 0
    code, _, error = train(studies, "--epochs", 3, "--resume", tmp_path / "run")
    assert code == 2
    assert error.splitlines()[-1] == (
        "error: the training run can't go on, since training.max_epochs was 2 when it began and is 3 now; "
        "start a new one"
    )
    code, output, progress = train(*common, "--resume", tmp_path / "run")
    assert code == 0
    assert "start: where it was interrupted" in output
    told = [line.split(":")[0] for line in output.splitlines() if line.startswith("epoch ") and ":" in line]
    assert told == ["epoch 0/2", "epoch 1/2", "epoch 2/2"]
    assert "epoch 2/2" in progress
    assert "epoch 1/2" not in progress
    straight, resumed = (tensors(tmp_path / name / "model.pt")[1] for name in ("straight", "run"))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    code, _, error = train(*common, "--resume", tmp_path / "run")
    assert code == 2
    assert error.startswith(f"error: there is no interrupted training in {tmp_path / 'run'}: it has no")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: there is no studies folder nowhere"),
        (["STUDIES"], "error: no weights: neither "),
        (
            ["STUDIES", "--start", "nowhere.pt"],
            "error: --start nowhere.pt: there is no such file, and there is no model version 'nowhere.pt'; "
            "there is none yet",
        ),
        (["STUDIES", "--epochs", "0"], "error: --conf: training.max_epochs = 0: Input should be greater than"),
        (["STUDIES", "--epochs", "x"], "error: argument --epochs: invalid int value: 'x'; see train.py --help"),
        (
            ["STUDIES", "--start", "scratch", "-o", "STUDIES"],
            "exists and is no empty folder; give each training a folder",
        ),
        (
            ["STUDIES", "--start", "scratch", "-o", "/dev/null/run"],
            "error: can't write to the folder /dev/null/run (Not a directory)",
        ),
        (
            ["STUDIES", "--start", "scratch", "--device", "cuda:99"],
            "error: --device cuda:99: this machine has cpu and ",
        ),
        (
            ["STUDIES", "-o", "a", "--resume", "b"],
            "error: argument --resume: not allowed with argument -o/--output; see train.py --help",
        ),
        ([], "error: the following arguments are required: STUDIES; see train.py --help"),
    ],
)
def test_wrong_input_is_one_line(train, studies, arguments, message):
    code, _, error = train(*(studies if argument == "STUDIES" else argument for argument in arguments))
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_help(train):
    code, output, _ = train("--help")
    assert code == 0
    assert all(option in output for option in ("--start", "--publish", "--epochs", "--conf", "labels/final"))


def test_two_processes_of_torchrun_train_together(studies, app, tmp_path):
    torchrun = [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc-per-node", "2", "--"]
    command = [*torchrun, SCRIPT, *options(app), studies, "--epochs", "1", "--start", "scratch", "-o", tmp_path / "run"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 processes on cpu, " in done.stdout
    assert done.stdout.count("epoch 1/1: loss ") == 1  # one of them speaks for both
    # One or two cases of 4 slices are one step of both with a batch of 4 each.
    assert json.loads((tmp_path / "run" / "preflight.json").read_text())["seconds"]["steps"] == 1
    assert (tmp_path / "run" / "model.pt").is_file()
