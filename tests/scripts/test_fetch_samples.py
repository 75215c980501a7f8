"""`scripts/fetch_samples.py` as a user runs it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lib.datasets.samples import PHANTOMS_FOLDER, complete_kind, sample_images
from lib.volume_io import IMAGE_SUFFIXES

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fetch_samples.py"


def fetch(*arguments, **environment):
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | environment
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False, env=variables
    )


def test_what_is_complete_is_left_alone(real_samples):
    result = fetch("-o", real_samples)
    assert result.returncode == 0
    assert f"{real_samples} is complete; nothing to do" in result.stdout


@pytest.mark.skipif(
    not any(path.name.endswith(IMAGE_SUFFIXES) for path in PHANTOMS_FOLDER.glob("*")), reason="no phantoms made yet"
)
def test_without_a_registry_it_falls_back_to_phantoms_and_says_so(tmp_path):
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        index = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
        result = fetch("-o", tmp_path / "ct", PIP_INDEX_URL=index, PIP_CONFIG_FILE=os.devnull)
    assert result.returncode == 0, result.stderr
    assert "pip could not get TotalSegmentator 2.18.0: no package registry can be reached" in result.stdout
    assert "SYNTHETIC phantoms" in result.stdout
    assert complete_kind(tmp_path / "ct") == "synthetic"
    assert sample_images(tmp_path / "ct")


def test_a_file_as_folder_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "ct").write_text("")
    result = fetch("-o", tmp_path / "ct")
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path / 'ct'} is a file; name a folder for the sample CTs\n"
