import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lib.doctor import Finding, Place, _try_packages, examine, facts, parts
from lib.errors import BadInputError, NotFoundError

REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = [
    "environment", "packages", "app folder", "settings", "studies folder", "sample image", "windowing", "network",
    "weights", "engine", "label files", "jpeg 2000", "dicom seg tool", "monai label", "port",
]  # fmt: skip


@pytest.fixture
def place(tmp_path):
    return Place(REPOSITORY / "apps" / "liver_tumor", tmp_path)


def test_every_part_is_tried_whatever_fails():
    def works():
        return "fine"

    def refuses():
        msg = "the file is empty"
        raise BadInputError(msg)

    def breaks():
        return str(1 / 0)

    found = list(examine({"one": works, "two": refuses, "three": breaks, "four": works}))
    assert [(finding.name, finding.ok, finding.detail) for finding in found] == [
        ("one", True, "fine"),
        ("two", False, "the file is empty"),
        ("three", False, "ZeroDivisionError: division by zero"),
        ("four", True, "fine"),
    ]
    assert all(isinstance(finding, Finding) and finding.seconds >= 0 for finding in found)


def test_an_interruption_is_no_finding():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(examine({"one": interrupted}))


def test_the_parts_that_need_no_model_work_here(place):
    tries = parts(place)
    assert list(tries) == PARTS
    wanted = ("app folder", "settings", "studies folder", "windowing", "label files", "jpeg 2000")
    found = {finding.name: finding for finding in examine({name: tries[name] for name in wanted})}
    assert {name: finding.detail for name, finding in found.items() if not finding.ok} == {}
    assert "3 channels" in found["windowing"].detail


def test_a_missing_folder_and_a_taken_port_are_findings(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        tries = parts(Place(tmp_path / "no app", tmp_path / "no studies", port=port))
        names = ("app folder", "studies folder", "settings", "port")
        found = {finding.name: finding for finding in examine({name: tries[name] for name in names})}
    assert not any(finding.ok for finding in found.values())
    assert "no app does not exist" in found["app folder"].detail
    assert "no studies does not exist" in found["studies folder"].detail
    assert f"port {port} on 127.0.0.1 is taken" in found["port"].detail


def test_packages_are_compared_with_the_lock(tmp_path):
    import numpy

    lock = tmp_path / "requirements.txt"
    lock.write_text(f"# head\nnumpy=={numpy.__version__}  # arrays\n")
    assert _try_packages(lock) == "all 1 are those of requirements.txt"
    lock.write_text('numpy==0.1\nno-such-package==1.0; platform_system == "Linux"\n')
    expected = rf"numpy {numpy.__version__} instead of 0\.1, no-such-package missing instead of 1\.0; run scripts/setup"
    with pytest.raises(NotFoundError, match=expected):
        _try_packages(lock)


def test_facts_are_lines_even_for_folders_that_do_not_exist(tmp_path):
    known = facts(Place(tmp_path / "a" / "b", tmp_path / "c"))
    assert all(isinstance(value, str) and "\n" not in value for value in known.values())
    assert known["disk of models"].endswith(f"GB free at {tmp_path.resolve()}")
    assert "cores to use" in known["cpu"]


def test_the_script_prints_json_and_its_exit_code_says_whether_all_is_well(tmp_path):
    process = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "doctor.py"), "--json", "--studies", str(tmp_path / "missing")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    report = json.loads(process.stdout)
    assert [check["name"] for check in report["checks"]] == PARTS
    assert set(report["facts"]) >= {"python", "torch", "monai", "monailabel", "cpu", "memory", "gpu", "disk of studies"}
    failed = {check["name"] for check in report["checks"] if not check["ok"]}
    assert "studies folder" in failed
    assert not report["ok"]
    assert process.returncode == 1
    assert {"monai label", "network", "dicom seg tool"}.isdisjoint(failed)
