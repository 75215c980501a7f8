import json
import threading

import pytest
import torch

from lib.errors import BadInputError
from lib.inference.model import load_model, new_network
from lib.training.publish import describe, publish

CPU = torch.device("cpu")


def test_a_published_model_can_be_used_and_read_about(tiny, tmp_path):
    settings = tiny({"windows": {"wide": {"width": 900, "level": 0}, "other": {"width": 90, "level": 0}},
                     "channels": ["liver", "wide"]})  # fmt: skip
    network = new_network(settings)
    manifest = describe(settings, "v1", training_cases=["a"], validation_dice=0.5)
    publish(tmp_path / "model" / "liver.pt", network, manifest)
    model = load_model(settings, tmp_path / "model" / "liver.pt", CPU)
    assert model.version == "v1"
    for name, tensor in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor)
    written = json.loads((tmp_path / "model" / "liver.json").read_text())
    assert written == manifest
    assert written["labels"] == {"liver": 1, "tumor": 2}
    assert written["channels"] == ["liver", "wide"]
    assert written["windows"] == {"wide": {"width": 900, "level": 0}}  # only those that the network sees
    assert written["training_cases"] == ["a"]
    assert set(written["software"]) == {"python", "torch", "monai", "numpy"}


def test_what_cannot_be_stored_safely_is_refused_and_the_old_model_stays(tiny, tmp_path):
    settings = tiny()
    publish(tmp_path / "m.pt", new_network(settings), describe(settings, "v1"))
    with pytest.raises(BadInputError, match=r"meta\['score'\] is a Tensor"):
        publish(tmp_path / "m.pt", new_network(settings), describe(settings, "v2", score=torch.zeros(1)))
    assert load_model(settings, tmp_path / "m.pt", CPU).version == "v1"
    assert json.loads((tmp_path / "m.json").read_text())["version"] == "v1"


def test_readers_see_the_old_model_or_the_new_one(tiny, tmp_path):
    settings = tiny()
    path = tmp_path / "m.pt"
    publish(path, new_network(settings), describe(settings, "v0"))
    stop, failures = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                load_model(settings, path, CPU)
            except Exception as error:  # whatever it is fails the test
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(10):
        publish(path, new_network(settings), describe(settings, f"v{number}"))
    stop.set()
    reader.join()
    assert not failures
