import argparse

import pytest
import torch

from lib.errors import BadInputError, NotFoundError, SettingsError
from lib.inference.command_line import DEFAULT_APP, add_app_arguments, device_from, settings_from


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_app_arguments(parser)
    return parser.parse_args(arguments)


def test_the_default_app_and_overrides():
    arguments = parsed("--conf", "training.max_epochs", "7", "--conf", "postprocessing.fill_holes", "false")
    settings = settings_from(arguments, {"training.threads": 2})
    assert arguments.app == DEFAULT_APP
    assert (settings.training.max_epochs, settings.training.threads) == (7, 2)
    assert not settings.postprocessing.fill_holes


def test_a_key_given_twice_or_unknown():
    twice = parsed("--conf", "training.max_epochs", "7")
    with pytest.raises(SettingsError, match=r"--conf training.max_epochs is given twice, or once with an option"):
        settings_from(twice, {"training.max_epochs": 5})
    with pytest.raises(SettingsError, match=r"unknown key training.epochs"):
        settings_from(parsed("--conf", "training.epochs", "7"))


def test_no_app_folder(tmp_path):
    with pytest.raises(NotFoundError, match=r"is not an app folder: it has no app.yaml"):
        settings_from(parsed("--app", str(tmp_path)))


@pytest.mark.parametrize("name", ["cuda:1", "gpu", "cuda:x", "mps", ""])
def test_a_device_that_is_not_there(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadInputError, match=f"--device {name}: this machine has cpu and 1 CUDA devices"):
        device_from(parsed("--device", name))


def test_devices_that_are_there(monkeypatch):
    assert device_from(parsed("--device", "cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_from(parsed("--device", "cuda:1")) == torch.device("cuda:1")
    assert device_from(parsed()) == torch.device("cuda")
