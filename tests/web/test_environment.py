import os
import sys
import types
from pathlib import Path

import pytest

from lib.web.environment import apply_environment, available_cores, server_environment


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


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("max 100000", None), ("nonsense", None)])
def test_cores_stay_within_a_container_quota(tmp_path, quota, cores):
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert available_cores(file) == (cores or available_cores(tmp_path / "missing"))
    assert available_cores(file) >= 1
