import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from lib.web.environment import apply_environment, server_environment, share_heaps


def test_defaults_turn_off_what_breaks_the_loop():
    environment = server_environment({}, port=8123, cores=3, programs=Path("/env/bin"))
    assert environment["MONAI_LABEL_TRACKING_ENABLED"] == "false"
    assert environment["MONAI_LABEL_AUTO_UPDATE_SCORING"] == "false"
    assert environment["MONAI_LABEL_DATASTORE_FILE_EXT"] == '["*.nii.gz", "*.nii", "*.nrrd"]'
    assert environment["MONAI_LABEL_SERVER_PORT"] == "8123"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["PATH"] == f"/env/bin{os.pathsep}{os.defpath}"


def test_what_a_person_set_is_kept():
    current = {"OMP_NUM_THREADS": "7", "MONAI_LABEL_TRACKING_ENABLED": "true", "PATH": "/usr/bin"}
    environment = server_environment(current, port=8000)
    assert "OMP_NUM_THREADS" not in environment
    assert "MONAI_LABEL_TRACKING_ENABLED" not in environment


def test_the_port_wins_over_a_leftover_variable():
    assert server_environment({"MONAI_LABEL_SERVER_PORT": "1"}, port=8000)["MONAI_LABEL_SERVER_PORT"] == "8000"
    assert "MONAI_LABEL_SERVER_PORT" not in server_environment({})


@pytest.mark.parametrize("path", ["/usr/bin", "/usr/bin:/env/bin:/bin", "/env/bin:/usr/bin"])
def test_programs_of_the_environment_come_first_and_once(path):
    current = {"PATH": path}
    entries = (current | server_environment(current, programs=Path("/env/bin")))["PATH"].split(":")
    assert entries[0] == "/env/bin"
    assert entries.count("/env/bin") == 1
    assert "/usr/bin" in entries


HEAPS = """
import ctypes, sys, threading
from lib.web.environment import share_heaps
shared = sys.argv[1] == "shared" and share_heaps({})
begin = threading.Barrier(12)
def allocate():
    begin.wait()
    kept = [bytes(600 + n % 300) for n in range(20000)]
    begin.wait()
threads = [threading.Thread(target=allocate) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
print(shared, flush=True)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heaps")
def test_threads_share_heaps():
    counts = {}
    for kind in ("shared", "own"):
        done = subprocess.run(
            [sys.executable, "-c", HEAPS, kind], cwd=Path(__file__).parents[2], capture_output=True, text=True,
            env={name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}, check=True,
        )  # fmt: skip
        assert done.stdout.startswith(f"{kind == 'shared'}\n")
        counts[kind] = done.stdout.count("<heap nr=")
    assert counts["shared"] <= 2 < counts["own"], counts
    assert not share_heaps({"MALLOC_ARENA_MAX": "4"})


def test_applying_twice_changes_nothing_more():
    current = {"PATH": "/usr/bin"}
    current |= server_environment(current, port=8000, cores=2)
    assert server_environment(current, port=8000, cores=2) == {}


def test_settings_that_were_already_read_are_corrected(monkeypatch):
    class Settings:
        model_fields = ("MONAI_LABEL_TRACKING_ENABLED",)

        def __init__(self):
            self.MONAI_LABEL_TRACKING_ENABLED = os.environ.get("MONAI_LABEL_TRACKING_ENABLED", "true") == "true"

    monkeypatch.delenv("MONAI_LABEL_TRACKING_ENABLED", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that monkeypatch puts it back
    config = types.SimpleNamespace(settings=Settings())
    monkeypatch.setitem(sys.modules, "monailabel.config", config)
    try:
        apply_environment({"MONAI_LABEL_TRACKING_ENABLED": "false", "OMP_NUM_THREADS": "2"})
        assert config.settings.MONAI_LABEL_TRACKING_ENABLED is False
        assert os.environ["OMP_NUM_THREADS"] == "2"
    finally:
        os.environ.pop("MONAI_LABEL_TRACKING_ENABLED", None)


def test_monai_label_reads_every_variable(monkeypatch):
    config = pytest.importorskip("monailabel.config")
    environment = server_environment({}, port=8077, cores=2)
    names = [name for name in environment if name.startswith("MONAI_LABEL_")]
    assert set(names) <= set(config.Settings.model_fields)
    for name in names:
        monkeypatch.setenv(name, environment[name])
    settings = config.Settings()
    assert settings.MONAI_LABEL_TRACKING_ENABLED is False
    assert settings.MONAI_LABEL_AUTO_UPDATE_SCORING is False
    assert settings.MONAI_LABEL_DATASTORE_FILE_EXT == ["*.nii.gz", "*.nii", "*.nrrd"]
    assert settings.MONAI_LABEL_SERVER_PORT == 8077
