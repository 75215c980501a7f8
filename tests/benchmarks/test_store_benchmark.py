import argparse
import json

import pytest

from lib.benchmarks import store
from lib.benchmarks.store import goals, spread
from lib.benchmarks.store_worker import run_phase
from lib.benchmarks.tiny_images import make_images
from lib.errors import BadInputError, LiverLoopError


@pytest.fixture
def in_this_process(monkeypatch):
    """Starting Python takes longer than what is measured; and a look through the folder answers fewer clients."""
    monkeypatch.setattr(store, "_in_process", run_phase)
    monkeypatch.setattr(store, "MOST_ASKED", 20)


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    store.add_arguments(parser)
    return parser.parse_args(list(map(str, arguments)))


def side(milliseconds=1.0, start=1.0, memory=500.0):
    times = {"median_ms": milliseconds, "cpu_ms": 0.5, "p90_ms": 2.0, "count": 3}
    return {
        **{name: dict(times) for name in store.OPERATIONS},
        "start": times | {"median_ms": start},
        "memory_mb": {"imported": 400.0, "peak": memory},
    }


def test_sizes_and_sides(in_this_process, tmp_path):
    result = store.measure(parsed("--images", 90, 70, "--baseline-most", 70, "--repeat", 3, "--folder", tmp_path))
    assert json.loads(json.dumps(result)) == result
    small, large = result["sizes"]
    assert (small["images"], large["images"]) == (70, 90)
    assert "stock" in small
    assert "stock" not in large
    assert "ratios" not in large
    for measured in (small["ours"], small["stock"], large["ours"]):
        assert measured["next_sample"]["count"] == measured["start"]["count"] == 3
        assert measured["adoption"]["count"] == 1
        assert measured["save_apart"]["median_ms"] <= measured["save_label"]["median_ms"]
    assert small["ratios"]["rescan"] == pytest.approx(
        small["stock"]["rescan"]["median_ms"] / small["ours"]["rescan"]["median_ms"]
    )
    assert "next_sample_during_rescan" not in small["ratios"]
    assert len(result["goals"]) == 6
    table = store.as_text(result)
    headers = [" ".join(line.split()) for line in table.splitlines() if " images " in line and "CPU" in line]
    assert headers == [
        "70 images LiverLoop CPU 90 % MONAI Label CPU 90 % theirs / ours",
        "90 images LiverLoop CPU 90 %",
    ]
    assert "next_sample at 90 images by that at 70 " in table
    # Kept for the next time; each store has a folder of its own.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store-70-ours", "store-70-stock", "store-90-ours"]


def test_nothing_is_left_behind(in_this_process, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = store.measure(parsed("--images", 70, "--baseline-most", 0, "--repeat", 1))
    assert [goal["goal"].split(" at ")[0] for goal in result["goals"]] == [
        "next_sample",
        "save_label apart from its file copy",
        "start",
        "memory",
    ]
    assert list(tmp_path.iterdir()) == []


def test_goals_are_met_or_not():
    small, large = {"images": 10, "ours": side(1.0)}, {"images": 2_000_000, "ours": side(2.0, 4_000.0, 999.0)}
    met = goals([small, large])
    assert all(goal["met"] for goal in met)
    assert met[1] == {
        "goal": "next_sample at 2,000,000 images by that at 10",
        "measured": 2.0,
        "limit": 2.0,
        "unit": "times",
        "met": True,
    }
    assert met[4]["measured"] == 4.0  # s
    large["ours"] = side(21.0, 5_100.0, 1_001.0)
    assert not any(goal["met"] for goal in goals([small, large]))
    assert {goal["measured"] for goal in goals([large])} == {21.0, 5.1, 1_001.0}


def test_a_copy_that_took_as_long_as_the_save():
    """Noise may make it even longer."""
    small, large = {"images": 10, "ours": side(0.0)}, {"images": 20, "ours": side(1.0)}
    growth = goals([small, large])[1]
    assert growth["measured"] == float("inf")
    assert not growth["met"]


def test_goals_in_the_table():
    sizes = [{"images": 1_000_000, "ours": side(25.0)}]
    result = {
        "machine": {"cpu": "a CPU", "cores": 2, "python": "3"}, "sqlite": "3", "monailabel": "0", "sizes": sizes,
        "goals": goals(sizes),
    }  # fmt: skip
    lines = store.as_text(result).splitlines()
    failed, memory = (" ".join(lines[index].split()) for index in (-4, -1))
    assert failed == "next_sample at 1,000,000 images 25.00 ms 20 ms NOT met"
    assert memory == "memory at 1,000,000 images, at its peak 500.00 MB 1000 MB met"


def test_spread():
    times = [(seconds / 1000, seconds / 2000) for seconds in (5, 1, 2, 3, 4, 6, 7, 8, 9, 10)]
    assert spread(times) == pytest.approx({"median_ms": 5.5, "p90_ms": 9.0, "cpu_ms": 2.75, "count": 10})
    assert spread(times[:1]) == pytest.approx({"median_ms": 5.0, "p90_ms": 5.0, "cpu_ms": 2.5, "count": 1})


def test_a_process(tmp_path):
    make_images(tmp_path / "studies", 2, lambda _: None)
    measured = store._in_process("ours", "start", tmp_path / "not-used", 1, [tmp_path / "studies"])
    ((wall, _),) = measured["studies"]["start"]
    assert wall > 0


def test_a_process_that_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "_ROOT", tmp_path)
    with pytest.raises(LiverLoopError, match=r"benchmark failed \(stock: use in .*studies\): .*No module named 'lib'"):
        store._in_process("stock", "use", tmp_path / "label.nii.gz", 1, [tmp_path / "studies"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repeat", 0), "--repeat must be at least 1, not 0"),
        (("--images", 5000, 300), "--images must be at least 366 with --repeat 60, not 300"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(BadInputError, match=message):
        store.measure(parsed(*arguments))
