import sys

import pytest
import torch

from lib.benchmarks import sample_app
from lib.benchmarks.sample_app import SampleApp, find_sample_app
from lib.errors import BadInputError, LiverLoopError, NotFoundError

CPU = torch.device("cpu")


def worker(monkeypatch, tmp_path, program):
    path = tmp_path / "worker.py"
    path.write_text(program)
    monkeypatch.setattr(sample_app, "_WORKER", path)


def test_it_comes_with_the_package():
    folder, version = find_sample_app()
    assert (folder / "lib" / "infers" / "segmentation.py").is_file()
    assert version.split(".")[0].isdigit()
    assert all((folder / "lib" / "configs" / f"{model}.py").is_file() for model in sample_app.MODELS)


def test_a_package_without_it(monkeypatch):
    monkeypatch.setattr(sample_app, "_MAIN", "sample-apps/nowhere/main.py")
    with pytest.raises(NotFoundError, match=r"is installed without sample-apps/nowhere/main\.py; install its wheel"):
        find_sample_app()


def test_one_that_does_not_start(monkeypatch, tmp_path):
    worker(monkeypatch, tmp_path, "raise SystemExit('no such model: ' + __import__('sys').argv[2])")
    with pytest.raises(LiverLoopError, match=r"^MONAI Label's sample app ended with code 1: no such model: kidney$"):
        SampleApp("kidney", CPU)


@pytest.mark.skipif(sys.platform == "win32", reason="ends by a signal")
def test_one_that_is_killed_while_it_works(monkeypatch, tmp_path):
    worker(monkeypatch, tmp_path, "print('{}', flush=True); input(); import os; os.kill(os.getpid(), 9)")
    with SampleApp("segmentation", CPU) as app:
        assert app.about["model"] == "segmentation"
        with pytest.raises(LiverLoopError, match="code -9: it said nothing; a system without enough memory ends proc"):
            app.segment(tmp_path / "image.nii.gz")


def test_more_voxels_than_memory(monkeypatch, tmp_path):
    program = """print('{"classes": 26}', flush=True); __import__('sys').stdin.read()"""
    worker(monkeypatch, tmp_path, program)
    with SampleApp("segmentation", CPU) as app:
        app.check_memory(1000)
        with pytest.raises(
            BadInputError, match=r"segmentation with 26 classes needs about 332801\.0 GB for 1000000000000"
        ):
            app.check_memory(10**12)


def test_its_process_ends_with_the_block(monkeypatch, tmp_path):
    worker(monkeypatch, tmp_path, "print('{}', flush=True); __import__('sys').stdin.read()")
    with SampleApp("segmentation", CPU) as app:
        process = app._process
        assert process.poll() is None
    assert process.poll() == 0
