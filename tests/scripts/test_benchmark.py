import json
import runpy
import sys
from pathlib import Path

import pytest

from lib.benchmarks import engine_limit, soak
from lib.inference.model import new_network
from lib.networks.checkpoint import save_weights
from lib.settings import Settings

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"
NETWORK = {"filters": [4, 4, 8, 8, 8]}


@pytest.fixture
def benchmark(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engine_limit, "_SECONDS", 0)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        output = capsys.readouterr()
        return exited.value.code, output.out, output.err

    return run


def test_table_and_json(benchmark, tmp_path):
    save_weights(tmp_path / "w.pt", new_network(Settings.model_validate({"network": {"arguments": NETWORK}})))
    code, output, _ = benchmark(
        "infer", "--volume", 3, "--size", 40, "--repeat", 2, "--json", tmp_path / "out" / "infer.json",
        "--weights", tmp_path / "w.pt", "--conf", "network.arguments", json.dumps(NETWORK), "--device", "cpu",
        "--conf", "inference.engine", "pytorch",
    )  # fmt: skip
    assert code == 0
    result = json.loads((tmp_path / "out" / "infer.json").read_text())
    assert result["benchmark"] == "infer"
    assert len(result["ours"]["cold"]["totals"]) == 2
    assert f"ratio: the baseline takes {result['ratio']:.1f} times as long as LiverLoop, cold." in output
    assert "postprocessing" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: the following arguments are required: BENCHMARK; see benchmark.py --help"),
        (("speed",), "error: argument BENCHMARK: invalid choice: 'speed'"),
        (("infer", "--json", "/dev/null/x/y"), "error: can't write to the folder /dev/null/x (Not a directory)"),
        (("infer", "--repeat", "0"), "error: --repeat must be at least 1, not 0"),
        (("store", "--repeat", "0"), "error: --repeat must be at least 1, not 0"),
        (("learning", "--unseen", "1"), "error: --unseen must be at least 2, not 1"),
        (("soak", "--minutes", "0"), "error: --minutes must be above 0 and at most a week, not 0"),
        (("infer", "--volume", "nowhere"), "error: --volume nowhere: neither a number of slices nor an existing image"),
    ],
)
def test_wrong_input_is_one_line(benchmark, arguments, message):
    code, _, error = benchmark(*arguments)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_help(benchmark):
    assert "one auto-segmentation" in benchmark("--help")[1]
    assert "--against" in benchmark("infer", "--help")[1]
    assert "--baseline-most" in benchmark("store", "--help")[1]
    assert "--unseen" in benchmark("learning", "--help")[1]
    assert "--most-growth" in benchmark("soak", "--help")[1]


@pytest.mark.parametrize(("broken", "code"), [([], 0), (["no request fails"], 1)])
def test_a_broken_promise_is_an_exit_code(benchmark, monkeypatch, broken, code):
    monkeypatch.setattr(soak, "measure", lambda _: {"broken": broken})
    monkeypatch.setattr(soak, "as_text", str)
    assert benchmark("soak")[:2] == (code, f"{{'broken': {broken}}}\n")
