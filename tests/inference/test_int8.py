import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.inference.choice import candidates_for, choose_engine, weights_digest, why_no_int8
from lib.inference.engine import TorchEngine
from lib.inference.int8 import accepted_int8, keep_int8, quantize
from lib.inference.model import ModelSource, load_model, new_network
from lib.inference.openvino_engine import OpenVinoEngine
from lib.inference.stopwatch import Stopwatch
from lib.inference.version_folder import version_folder
from lib.networks.checkpoint import save_weights
from lib.phantom import make_phantom
from lib.settings import load_settings
from lib.transforms.windowing import gray_levels

APP = Path(__file__).resolve().parents[2] / "apps" / "liver_tumor"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def any_cpu(monkeypatch):
    monkeypatch.setattr("lib.inference.choice.has_fast_int8", lambda: True)


@pytest.fixture(scope="module")
def fast(settings):
    """The settings, with int8 possible."""
    chosen = {"engine": "openvino", "precision": "auto"}
    return settings.model_copy(update={"inference": settings.inference.model_copy(update=chosen)})


@pytest.fixture(scope="module")
def network(settings, weights):
    return load_model(settings, weights, CPU).network


@pytest.fixture(scope="module")
def made(settings, network, tmp_path_factory):
    """The small network in int8."""
    hu = np.random.default_rng(1).integers(-150, 250, (4, 64, 64)).astype(np.int16)
    path = tmp_path_factory.mktemp("int8") / "made.xml"
    quantize(network, settings.blend_channels(), [(hu[i : i + 1], gray_levels(hu[i])[None]) for i in range(4)], path)
    return path


@pytest.fixture
def folder(tmp_path, made, network):
    """A version's folder with accepted files."""
    keep_int8(tmp_path / "v-test", made, {"weights": weights_digest(network), "reason": "as good"})
    return tmp_path / "v-test"


def warnings_of(caplog):
    return [
        text
        for record in caplog.records
        if record.levelno >= logging.WARNING and "int8" in (text := record.getMessage())
    ]


def test_the_labels_of_trained_weights_stay_nearly_the_same(tmp_path):
    settings = load_settings(APP / "app.yaml")
    network, channels = load_model(settings, APP / "starter.pt", CPU).network, settings.blend_channels()

    def cases_of(seed):
        hu = np.ascontiguousarray(make_phantom(seed, shape=(128, 128, 6), tumors=4, orientation="LPS").image.axial())
        return hu, np.stack([gray_levels(one) for one in hu])

    hu, levels = cases_of(1)
    quantize(network, channels, [(hu[i : i + 1], levels[i : i + 1]) for i in range(6)], tmp_path / "int8.xml")
    hu, levels = cases_of(2)
    found = OpenVinoEngine(tmp_path / "int8.xml", channels, "int8", threads=1)(hu, levels, Stopwatch())
    expected = TorchEngine(network, channels, "float32")(hu, levels, Stopwatch())
    assert set(np.unique(expected)) == {0, 1, 2}
    assert 0.995 < (found == expected).mean() < 1
    for index, least in ((1, 0.97), (2, 0.85)):
        both = 2 * ((found == index) & (expected == index)).sum() / ((found == index).sum() + (expected == index).sum())
        assert both > least
    assert (tmp_path / "int8.bin").stat().st_size < 0.3 * 4 * sum(weight.numel() for weight in network.parameters())


def test_what_is_seen_in_int8(settings, network, made, sees_the_same):
    channels = settings.blend_channels()
    hu = np.random.default_rng(2).integers(-150, 250, (2, 64, 80)).astype(np.int16)
    seen = sees_the_same(OpenVinoEngine(made, channels, "int8", threads=1, has_bottom=True), hu)
    exact = sees_the_same(TorchEngine(network, channels, "float32"), hu)
    assert seen.features.shape == exact.features.shape
    assert np.corrcoef(seen.features.ravel(), exact.features.ravel())[0, 1] > 0.97


@pytest.mark.usefixtures("small_probe")
def test_an_accepted_network_is_one_more_engine(fast, network, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    int8 = accepted_int8(folder, weights_digest(network), "v-test")
    assert [candidate.name for candidate in candidates_for(network, fast, 2, int8)][-2:] == [
        "OpenVINO int8, 1 stream on cpu", "OpenVINO int8, 2 streams on cpu",
    ]  # fmt: skip
    choose_engine(network, "v-test", fast, tmp_path / "engines.json", folder)
    (seconds,) = json.loads((tmp_path / "engines.json").read_text())["speeds"].values()
    assert seconds["OpenVINO int8, 1 stream on cpu"] > 0


@pytest.mark.usefixtures("small_probe")
class TestUse:
    """Accepted files are used, all others are not."""

    @pytest.fixture
    def chosen(self, fast, network, folder, tmp_path, monkeypatch):
        """Chooses where int8 is much faster than all else."""
        monkeypatch.setattr("lib.inference.choice._cost", lambda name, _: 0 if "int8" in name else 1)
        monkeypatch.setattr("lib.inference.choice._SANE", 0.5)  # random weights have a tie in every pixel

        def choose(network=network, settings=fast):
            return choose_engine(network, "v-test", settings, tmp_path / "engines.json", folder).name

        return choose

    def test_the_faster_one_runs(self, chosen):
        assert chosen() == "OpenVINO int8, 1 stream on cpu"
        assert chosen() == "OpenVINO int8, 1 stream on cpu"

    def test_of_other_weights(self, chosen, settings, caplog):
        assert "int8" not in chosen(new_network(settings).eval())
        assert warnings_of(caplog) == ["model v-test: its int8 files are not used, they were made of other weights"]

    @pytest.mark.parametrize("name", ["int8.xml", "int8.bin"])
    def test_damaged(self, chosen, folder, name, caplog):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        assert "int8" not in chosen()
        assert warnings_of(caplog) == ["model v-test: its int8 files are not used, they are damaged; quantize it again"]

    def test_not_accepted(self, chosen, folder, network, caplog):
        keep_int8(folder, None, {"weights": weights_digest(network), "reason": "worse"})
        assert {path.name for path in folder.iterdir()} == {"int8.json"}
        assert "int8" not in chosen()
        assert not warnings_of(caplog)

    def test_labels_that_are_quite_others(self, chosen, monkeypatch, caplog):
        monkeypatch.setattr("lib.inference.choice._SANE", 1.1)
        assert "int8" not in chosen()
        assert warnings_of(caplog)[0].startswith(
            "model v-test: OpenVINO int8, 1 stream on cpu is not used, it differs from PyTorch float32: "
        )

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"int8": False}, "inference.int8 is false"),
            ({"engine": "pytorch"}, "inference.engine is pytorch"),
            ({"precision": "float32"}, "inference.precision is float32"),
        ],
    )
    def test_what_the_settings_forbid(self, chosen, fast, changed, reason):
        settings = fast.model_copy(update={"inference": fast.inference.model_copy(update=changed)})
        assert why_no_int8(settings) == reason
        assert "int8" not in chosen(settings=settings)

    def test_a_server_takes_it_up_when_it_is_there(self, chosen, fast, network, made, tmp_path):
        save_weights(tmp_path / "starter.pt", network, {"version": "a:b"})
        source = ModelSource(fast, tmp_path / "model" / "m.pt", tmp_path / "starter.pt", tmp_path / "engines.json")
        source.get(CPU)
        source.wait()
        first = source.get(CPU)
        assert "int8" not in first.engine(fast).name
        place = tmp_path / "model" / "versions" / "a-b"
        keep_int8(place, made, {"weights": weights_digest(network), "reason": "as good"})
        assert source.get(CPU) is first  # until the choice is made
        source.wait()
        second = source.get(CPU)
        assert (second.engine(fast).name, second.version) == ("OpenVINO int8, 1 stream on cpu", "a:b")
        assert second.network is first.network
        assert source.get(CPU) is second


@pytest.mark.parametrize("verdict", ["", "{}", "[]", "\x00"])
def test_an_unreadable_verdict(folder, network, verdict, caplog):
    (folder / "int8.json").write_text(verdict)
    assert accepted_int8(folder, weights_digest(network), "v-test") is None
    (warning,) = warnings_of(caplog)
    assert warning.startswith("model v-test: its int8 files are not used, they can't be read: ")


@pytest.mark.parametrize("name", ["int8.xml", "int8.bin"])
def test_a_missing_file(folder, network, name, caplog):
    (folder / name).unlink()
    assert accepted_int8(folder, weights_digest(network), "v-test") is None
    (warning,) = warnings_of(caplog)
    assert warning.startswith("model v-test: its int8 files are not used, they can't be read: ")


def test_a_version_without_a_verdict_has_none(folder, network, caplog):
    assert accepted_int8(folder, weights_digest(network), "v-test") is not None
    (folder / "int8.json").unlink()
    assert accepted_int8(folder, weights_digest(network), "v-test") is None
    assert accepted_int8(None, weights_digest(network), "v-test") is None
    assert not warnings_of(caplog)


def test_no_int8_where_the_cpu_has_no_instructions_for_it(fast, monkeypatch):
    assert why_no_int8(fast) is None
    monkeypatch.setattr("lib.inference.choice.has_fast_int8", lambda: False)
    assert why_no_int8(fast) == "this CPU has no fast int8 (AVX512-VNNI or AMX)"


@pytest.mark.parametrize(
    ("weights", "folder"),
    [
        ("app/starter.pt", "app/model/versions/a-b"),
        ("app/model/liver.pt", "app/model/versions/a-b"),
        ("app/model/versions/x/model.pt", "app/model/versions/x"),
    ],
)
def test_where_a_version_lies(weights, folder):
    assert version_folder(Path(weights), "a:b") == Path(folder)


@pytest.mark.parametrize("version", ["/somewhere/else", "../../../else", "a\0b", "\udc80", "", "x" * 101])
def test_a_version_that_can_not_name_a_folder_is_named_by_its_weights(tmp_path, version):
    (tmp_path / "starter.pt").write_bytes(b"weights")
    assert version_folder(tmp_path / "starter.pt", version) == tmp_path / "model" / "versions" / "sha256-9a129038d9a0"


def test_a_folder_that_can_not_be_looked_into_has_none(tmp_path, network, caplog):
    assert accepted_int8(tmp_path / ("\u00e4" * 200), weights_digest(network), "v-test") is None
    assert warnings_of(caplog)[0].startswith("model v-test: its int8 files are not used, they can't be read: ")


def test_nncf_is_quiet_and_loaded_only_when_something_is_quantized():
    code = """
import logging, socket, sys
def refused(*_): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refused
import lib.inference.choice, lib.inference.openvino_engine
assert "nncf" not in sys.modules
from lib.inference.int8 import _quiet_nncf
usual = logging.getLoggerClass()
with _quiet_nncf() as nncf:
    from nncf.telemetry import telemetry
    assert type(telemetry).__name__ == "MagicMock", telemetry
assert logging.getLoggerClass() is usual
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=APP.parents[1], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
