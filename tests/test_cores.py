import os

import pytest

from lib.cores import available_cores


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("350000 100000\n", 4),
        ("6400000 100000\n", 8),
        ("max 100000\n", 8),
        ("nonsense", 8),
        ("100000 0", 8),
        ("", 8),
        (None, 8),
    ],
)
def test_cores_stay_within_a_container_quota(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota)
    assert available_cores(file) == cores


def test_cores_that_others_were_given_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert available_cores(tmp_path / "missing") == 2


@pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
def test_where_a_system_knows_no_affinity_all_cores_count(tmp_path, monkeypatch, count, cores):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert available_cores(tmp_path / "missing") == cores
