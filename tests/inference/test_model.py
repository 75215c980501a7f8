import os
import pickle
import threading
from pathlib import Path

import pytest
import torch

from lib.errors import ModelError
from lib.files import file_sha256
from lib.inference.model import ModelSource, load_model, new_network
from lib.networks.checkpoint import save_weights
from lib.settings import Settings

CPU = torch.device("cpu")


def write(path, settings, number, **meta):
    """Weights whose last bias tells their number."""
    network = new_network(settings)
    with torch.no_grad():
        network.head.bias.fill_(number)
    save_weights(path, network, {"version": f"v{number}", **meta})


def number_of(model):
    return model.network.head.bias[0].item()


@pytest.fixture
def source(settings, tmp_path):
    write(tmp_path / "starter.pt", settings, 0)
    return ModelSource.of_app(settings, tmp_path)


def test_starter_until_something_is_published(settings, source):
    assert source.published.name == "liver_tumor.pt"
    assert source.get(CPU).version == source.version == "v0"
    write(source.published, settings, 1)
    assert source.path == source.published
    assert source.get(CPU).version == source.version == "v1"
    source.published.unlink()
    assert source.get(CPU).version == "v0"


def test_loaded_once_in_evaluation_mode(source):
    model = source.get(CPU)
    assert source.get(CPU) is model
    assert not model.network.training


def test_a_new_version_of_the_same_time_and_size_is_seen(settings, source):
    versions = []
    for number in (1, 2, 3):
        write(source.published, settings, number)
        os.utime(source.published, ns=(10**18, 10**18))
        versions.append((source.version, source.get(CPU).version, number_of(source.get(CPU))))
    assert versions == [("v1", "v1", 1), ("v2", "v2", 2), ("v3", "v3", 3)]


def test_publishing_under_load(settings, source):
    write(source.published, settings, 1)
    stop, wrong, seen = threading.Event(), [], set()

    def use():
        while not stop.is_set():
            model = source.get(CPU)
            seen.add(model.version)
            if model.version != f"v{number_of(model):g}":
                wrong.append(model.version)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2, 12):
        write(source.published, settings, number)
        assert number_of(source.get(CPU)) == number
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(seen) > 1


def test_no_weights_at_all(settings, tmp_path):
    source = ModelSource.of_app(settings, tmp_path)
    assert source.path_or_none is None
    with pytest.raises(
        ModelError, match=r"no weights: neither .*liver_tumor\.pt nor .*starter\.pt exists; train a model"
    ):
        source.get(CPU)


def test_damaged_weights_are_named(settings, source):
    source.published.parent.mkdir()
    source.published.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ModelError, match=r"liver_tumor.pt is no checkpoint"):
        source.get(CPU)


def test_weights_of_another_network_are_refused(settings, source):
    with pytest.raises(ModelError, match="do not fit MulticlassUNet"):
        load_model(Settings(), source.path, CPU)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (
            {"labels": {"liver": 2, "tumor": 1}},
            r"made for labels \{'liver': 2, 'tumor': 1\}, but app.yaml says \{'liver': 1",
        ),
        ({"channels": ["liver", "custom", "lungs"]}, r"made for channels \['liver', 'custom', 'lungs'\], but app.yaml"),
    ],
)
def test_weights_made_for_other_labels_or_channels_are_refused(settings, tmp_path, meta, message):
    write(tmp_path / "other.pt", settings, 0, **meta)
    with pytest.raises(ModelError, match=message):
        load_model(settings, tmp_path / "other.pt", CPU)


def test_weights_made_with_a_window_of_another_width_are_refused(settings, tmp_path):
    ours = settings.model_dump() | {"windows": {"liver": {"width": 160, "level": 40}}}
    write(tmp_path / "other.pt", settings, 0, windows={"liver": {"width": 200, "level": 40}})
    with pytest.raises(ModelError, match="windows"):
        load_model(Settings.model_validate(ours), tmp_path / "other.pt", CPU)


def test_weights_without_a_version_are_known_by_their_content(settings, tmp_path):
    path: Path = tmp_path / "bare.pt"
    torch.save(new_network(settings).state_dict(), path)
    assert load_model(settings, path, CPU).version == f"sha256:{file_sha256(path)[:12]}"


@pytest.mark.usefixtures("small_probe")
class TestEngines:
    """PyTorch at once, a faster engine once it is chosen."""

    @pytest.fixture
    def source(self, settings, tmp_path):
        write(tmp_path / "starter.pt", settings, 0)
        settings = settings.model_copy(
            update={"inference": settings.inference.model_copy(update={"engine": "openvino"})}
        )
        return ModelSource(settings, tmp_path / "model.pt", tmp_path / "starter.pt", tmp_path / "engines.json")

    def test_the_faster_engine_replaces_pytorch_in_the_background(self, settings, source):
        first = source.get(CPU)
        assert first.chosen is None
        assert first.engine(settings).name == "PyTorch float32 on cpu"
        source.wait()
        second = source.get(CPU)
        assert second.engine(settings).name == "OpenVINO float32, 1 stream on cpu"
        assert second.network is first.network
        assert source.get(CPU) is second

    def test_so_it_is_with_each_published_model(self, settings, source):
        source.get(CPU)
        source.wait()
        write(source.published, settings, 1)
        assert (source.get(CPU).version, source.get(CPU).network.head.bias[0].item()) == ("v1", 1)
        source.wait()
        model = source.get(CPU)
        assert (model.version, model.engine(settings).name) == ("v1", "OpenVINO float32, 1 stream on cpu")

    def test_a_model_that_is_no_longer_in_force_never_comes_back(self, settings, source):
        for number in range(1, 6):
            source.get(CPU)
            write(source.published, settings, number)
        source.get(CPU)
        source.wait()
        assert source.get(CPU).version == "v5"

    def test_a_choice_that_fails_leaves_pytorch_and_one_line(self, settings, source, monkeypatch, caplog):
        def fail(*_):
            msg = "out of luck"
            raise RuntimeError(msg)

        monkeypatch.setattr("lib.inference.model.choose_engine", fail)
        source.get(CPU)
        source.wait()
        assert source.get(CPU).chosen is None
        assert [record.getMessage() for record in caplog.records] == [
            "model v0: PyTorch runs it, as choosing an engine failed: out of luck"
        ]

    def test_another_process_makes_its_own(self, settings, source):
        source.get(CPU)
        source.wait()
        copy = pickle.loads(pickle.dumps(source))
        assert copy.get(CPU).version == "v0"
        copy.wait()
        assert copy.get(CPU).engine(settings).name.startswith("OpenVINO")
