import argparse
import json
import shutil

import numpy as np
import pytest
import torch

from lib.benchmarks import learning
from lib.benchmarks.shifted_cases import Cases
from lib.errors import BadInputError, ModelError, NotFoundError
from lib.inference.command_line import DEFAULT_APP
from lib.inference.model import new_network
from lib.networks.checkpoint import save_weights
from lib.settings import Settings
from lib.volume import Volume
from lib.volume_io import write_image, write_label

NETWORK = {"filters": [4, 4, 8, 8, 8]}
RECIPE = {"patch_size": 32, "slices_per_case": 4, "cross_validate_below": 0, "learning_rate": 0.01}
PHANTOMS = ("--corrected", 3, "--unseen", 2, "--size", 32, "--slices", 10, "--slice-mm", 20)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """An app folder whose starter weights know nothing."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("app")
    shutil.copy(DEFAULT_APP / "app.yaml", folder)
    network = new_network(Settings.model_validate({"network": {"arguments": NETWORK}}))
    save_weights(folder / "starter.pt", network, {"version": "nothing"})
    return folder


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """A CT with its label, of 36 slices; liver and tumor are in all of them."""
    rng = np.random.default_rng(0)
    label = np.zeros((40, 40, 36), np.uint8)
    label[8:32, 8:32] = 1
    label[12:20, 12:20] = 2
    hu = np.choose(label, (-100, 100, 50)) + rng.normal(0, 5, label.shape)
    folder = tmp_path_factory.mktemp("ct")
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    write_image(folder / "ct.nii.gz", Volume(hu.astype(np.int16), affine))
    write_label(folder / "labels_reference" / "ct.nii.gz", Volume(label, affine))
    return folder / "ct.nii.gz"


def parsed(app, *arguments):
    parser = argparse.ArgumentParser()
    learning.add_arguments(parser)
    conf = {"network.arguments": NETWORK} | {f"training.{key}": value for key, value in RECIPE.items()}
    options = [part for key, value in conf.items() for part in ("--conf", key, json.dumps(value))]
    return parser.parse_args([*map(str, arguments), "--app", str(app), *options, "--device", "cpu"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def result(app, ct, folder):
    return learning.measure(parsed(app, *PHANTOMS, "--ct", ct, "--epochs", 1, "--threads", 1, "--folder", folder))


def test_both_trainings_in_one_result(result):
    assert json.loads(json.dumps(result)) == result
    assert result["recipe"]["max_epochs"] == 1
    for kind, corrected, unseen in (("phantoms", 3, 2), ("real", 5, 3)):
        learned = result[kind]
        names = {name for side in ("training", "validation", "unseen") for name in learned[side]}
        assert len(names) == corrected + unseen  # on one side each
        assert len(learned["unseen"]) == unseen
        assert learned["epochs"] == 1
        assert list(learned["classes"]) == ["liver", "tumor"]
        for name, change in learned["classes"].items():
            for side in ("before", "after"):
                cases = [dice[side][name] for dice in learned["unseen_cases"].values()]
                assert change[side] == pytest.approx(sum(cases) / len(cases))
            assert change["gain"] == pytest.approx(change["after"] - change["before"])
            assert change["interval"][0] <= change["gain"] <= change["interval"][1]
        assert learned["lesions"]["labelled"] >= unseen
        assert isinstance(learned["published"], bool)


def test_the_table_says_what_was_trained_and_compared(result):
    text = learning.as_text(result)
    assert "epochs: 1 at most; learning rate 0.01, seed 0" in text
    assert "synthetic, late arterial phase, 32 x 32 x 10 voxels of 12.50 x 12.50 x 20 mm" in text
    assert "slabs of one real CT, ct, with gaps between them" in text
    assert "3 unseen cases: mean Dice" in text
    change = result["real"]["classes"]["tumor"]
    assert f"tumor     {change['before']:>8.3f}{change['after']:>8.3f}" in text
    assert text.count("published: ") == 2


def test_cases_and_reports_are_kept_where_they_were_asked_for(result, folder):
    for kind in ("phantoms", "real"):
        assert (folder / kind / "run" / "report.html").is_file()
        assert len(list((folder / kind / "studies").glob("*.nii.gz"))) == {"phantoms": 5, "real": 8}[kind]
        versions = folder / kind / "app" / "model" / "versions"
        assert len(list(versions.glob("*/model.pt"))) == 1


def test_a_folder_takes_one_training(result, app, ct, folder):
    with pytest.raises(BadInputError, match=r"real holds a training already; choose another folder$"):
        learning.measure(parsed(app, "--only", "real", "--ct", ct, "--folder", folder))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--unseen", 1), BadInputError, "--unseen must be at least 2, not 1"),
        (("--corrected", 0), BadInputError, "--corrected must be at least 2, not 0"),
        (("--only", "phantoms", "--size", 3), BadInputError, "at least 16 x 16 x 1 voxels, not"),
        (
            ("--ct", "nowhere.nii.gz"),
            NotFoundError,
            "there is no nowhere.nii.gz; scripts/fetch_samples.py gets a real CT, --only phantoms does without",
        ),
    ],
)
def test_wrong_arguments(app, arguments, error, message):
    with pytest.raises(error, match=message):
        learning.measure(parsed(app, *arguments))


def test_a_ct_without_its_label(app, ct, tmp_path):
    shutil.copy(ct, tmp_path)
    with pytest.raises(NotFoundError, match=r"there is no .*labels_reference/ct\.nii\.gz; "):
        learning.measure(parsed(app, "--ct", tmp_path / "ct.nii.gz"))


def test_an_app_without_starter_weights(app, ct, tmp_path):
    shutil.copy(app / "app.yaml", tmp_path)
    with pytest.raises(ModelError, match=r"there is no weights file .*starter\.pt"):
        learning.measure(parsed(tmp_path, "--ct", ct))


def test_no_labelled_case(app, tmp_path):
    settings = Settings.model_validate({"network": {"arguments": NETWORK}})
    with pytest.raises(BadInputError, match="no labelled cases to train on"):
        learning.learn(Cases((), ()), settings, app / "starter.pt", tmp_path / "x", torch.device("cpu"))
