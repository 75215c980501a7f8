import json
import logging
import time

import pytest
import torch

import lib.inference.openvino_engine
from lib.inference.choice import _clock, choose_engine, weights_digest
from lib.inference.engine import TorchEngine
from lib.inference.model import load_model, new_network
from lib.inference.openvino_engine import OpenVinoEngine
from lib.settings import Settings

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_probe")


def settings_with(settings, **inference):
    return settings.model_copy(update={"inference": settings.inference.model_copy(update=inference)})


@pytest.fixture
def records(tmp_path):
    return tmp_path / "cache" / "engines.json"


def content(records):
    return json.loads(records.read_text())


def change(records, part, **values):
    """Write other values for what the records hold."""
    kept = content(records)
    for entry in kept[part].values():
        entry.update({name: values[kind] for name in entry for kind in values if name.startswith(kind)})
    records.write_text(json.dumps(kept))


def chosen(settings, network, records):
    return choose_engine(network, "v-test", settings, records)


def test_pytorch_by_name_is_pytorch_and_nothing_is_measured(settings, model, records):
    engine = chosen(settings_with(settings, engine="pytorch"), model.network, records)
    assert engine.name == "PyTorch float32 on cpu"
    assert not records.exists()


def test_openvino_by_name_is_openvino(settings, model, records):
    engine = chosen(settings_with(settings, engine="openvino"), model.network, records)
    assert engine.name == "OpenVINO float32, 1 stream on cpu"


def test_the_fastest_is_taken_and_remembered(settings, model, records, caplog):
    auto = settings_with(settings, engine="auto")
    caplog.set_level(logging.INFO)
    chosen(auto, model.network, records)
    (seconds,) = content(records)["speeds"].values()
    assert set(seconds) == {"PyTorch float32 on cpu", "OpenVINO float32, 1 stream on cpu"}
    assert all(0 < taken < 60 for taken in seconds.values())
    assert "model v-test runs on " in caplog.text
    assert "(ms per slice of 320 x 320: " in caplog.text

    change(records, "speeds", PyTorch=1.0, OpenVINO=0.5)
    assert isinstance(chosen(auto, model.network, records), OpenVinoEngine)
    change(records, "speeds", PyTorch=0.5, OpenVINO=1.0)
    assert isinstance(chosen(auto, model.network, records), TorchEngine)
    change(records, "speeds", PyTorch=1.0, OpenVINO=0.99)  # not worth it
    assert isinstance(chosen(auto, model.network, records), TorchEngine)


@pytest.mark.parametrize(("load", "is_counted"), [(0.0, True), (1000.0, False)])
def test_other_programs_do_not_count_on_a_busy_machine(monkeypatch, load, is_counted):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0, 0))
    clock = _clock(torch.device("cpu"))
    start = clock()
    time.sleep(0.25)  # as if others had the cores
    assert (clock() - start > 0.2) is is_counted


def test_what_is_known_is_not_measured_again(settings, model, records, monkeypatch):
    auto = settings_with(settings, engine="openvino")
    chosen(auto, model.network, records)
    before = content(records)

    def unexpected():
        raise AssertionError

    monkeypatch.setattr("lib.inference.choice.probe_cases", unexpected)
    monkeypatch.setattr("lib.inference.agreement.probe_cases", unexpected)
    assert isinstance(chosen(auto, model.network, records), OpenVinoEngine)
    assert content(records) == before


def test_new_weights_are_compared_and_not_timed(settings, model, records):
    auto = settings_with(settings, engine="openvino")
    chosen(auto, model.network, records)
    other = new_network(settings).eval()
    chosen(auto, other, records)
    assert weights_digest(other) != weights_digest(model.network)
    assert (len(content(records)["speeds"]), len(content(records)["models"])) == (1, 2)


class Wrong(OpenVinoEngine):
    """Misses a class."""

    def __call__(self, hu, levels, watch):
        found = super().__call__(hu, levels, watch)
        found[found == found.max()] = 0
        return found


class Failing(OpenVinoEngine):
    def __init__(self, *_, **__):
        msg = "no such\ninstruction"
        raise RuntimeError(msg)


@pytest.mark.parametrize("asked", ["auto", "openvino"])
def test_an_engine_with_other_labels_is_refused_and_pytorch_goes_on(
    settings, model, records, monkeypatch, caplog, asked
):
    monkeypatch.setattr(lib.inference.openvino_engine, "OpenVinoEngine", Wrong)
    asked = settings_with(settings, engine=asked)
    chosen(asked, model.network, records)
    change(records, "speeds", PyTorch=1.0, OpenVINO=0.1)
    caplog.clear()
    records.write_text(json.dumps(content(records) | {"models": {}}))
    assert isinstance(chosen(asked, model.network, records), TorchEngine)
    assert (
        "model v-test: OpenVINO float32, 1 stream on cpu is not used, it differs from PyTorch float32: " in caplog.text
    )
    caplog.clear()
    assert isinstance(chosen(asked, model.network, records), TorchEngine)  # known by now
    assert "differs" not in caplog.text


def test_an_engine_that_fails_is_left_out_with_one_line(settings, model, records, monkeypatch, caplog):
    monkeypatch.setattr(lib.inference.openvino_engine, "OpenVinoEngine", Failing)
    assert isinstance(chosen(settings_with(settings, engine="auto"), model.network, records), TorchEngine)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["model v-test: OpenVINO float32, 1 stream on cpu can't run it: no such instruction"]
    caplog.clear()
    chosen(settings_with(settings, engine="auto"), model.network, records)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"speeds": {"a": 3}, "models": {}}', "\x00"])
def test_damaged_records_are_replaced(settings, model, records, damage):
    records.parent.mkdir()
    records.write_text(damage)
    chosen(settings_with(settings, engine="openvino"), model.network, records)
    assert len(content(records)["models"]) == 1


def test_records_that_can_not_be_written_keep_nobody_from_working(settings, model, tmp_path):
    (tmp_path / "file").touch()
    found = chosen(settings_with(settings, engine="openvino"), model.network, tmp_path / "file" / "engines.json")
    assert isinstance(found, OpenVinoEngine)


def test_records_stay_small(settings, model, records):
    records.parent.mkdir()
    old = {f"old{number}": {"x": 1.0} for number in range(100)}
    records.write_text(json.dumps({"speeds": old, "models": old}))
    chosen(settings_with(settings, engine="openvino"), model.network, records)
    assert {part: len(entries) for part, entries in content(records).items()} == {"speeds": 64, "models": 64}
    assert "old99" in content(records)["speeds"]
    assert "old0" not in content(records)["speeds"]


def test_the_default_is_to_choose():
    assert Settings().inference.engine == "auto"


def test_the_digest_tells_every_weight_apart(settings, weights):
    one, other = (load_model(settings, weights, CPU).network for _ in range(2))
    assert weights_digest(one) == weights_digest(other)
    with torch.no_grad():
        other.head.bias[0] += 1e-3
    assert weights_digest(one) != weights_digest(other)
