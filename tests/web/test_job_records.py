"""What is written down of background work, by processes that live, end and are killed."""

import json
import multiprocessing
import os
import re
import time

import pytest

from lib.web.job_records import JobRecords, training_told

FORK = multiprocessing.get_context("fork")


def work(folder, method, request, facts, begun):
    records = JobRecords(folder)
    with records.kept(method, request):
        records.note(**facts)
        begun.set()
        time.sleep(600)


@pytest.fixture
def begin(tmp_path):
    """Starts a job in a process of its own."""
    processes = []

    def begun(method, request=None, **facts):
        has_begun = FORK.Event()
        processes.append(FORK.Process(target=work, args=(tmp_path, method, request or {}, facts, has_begun)))
        processes[-1].start()
        assert has_begun.wait(60)
        return processes[-1]

    yield begun
    for process in processes:
        process.kill()
        process.join()


@pytest.fixture
def records(tmp_path):
    return JobRecords(tmp_path)


def kill(process):
    process.kill()
    process.join()


def write_stats(folder, run, epoch):
    (folder / "train_stats.json").write_text(json.dumps({"run": run, "epoch": epoch, "total_epochs": 10}))


def test_one_that_runs_is_not_interrupted_and_one_that_was_killed_is(records, begin, tmp_path):
    assert records.interrupted() == []
    process = begin("train", {"model": "m", "max_epochs": 10, "gpus": "all"}, training=7, run="20300101_120000")
    assert records.interrupted() == []
    write_stats(tmp_path, "20300101_120000", 3)
    (tmp_path / "runs" / "20300101_120000").mkdir(parents=True)
    (tmp_path / "runs" / "20300101_120000" / "state.pt").touch()
    kill(process)
    (found,) = records.interrupted()
    assert (found.method, found.pid, found.training) == ("train", process.pid, 7)
    assert found.started_at <= found.ended_at
    assert re.fullmatch(
        r"interrupted after epoch 3 of 10, last heard of at [\d-]+ [\d:]+; resumable: start a training with "
        r'{"resume": "20300101_120000", "max_epochs": 10}',
        found.told,
    )


def test_a_training_that_has_kept_nothing_can_not_go_on(records, begin, tmp_path):
    write_stats(tmp_path, "of before", 9)
    os.utime(tmp_path / "train_stats.json", (1e9, 1e9))
    kill(begin("train", {}, training=1))
    (found,) = records.interrupted()
    assert re.fullmatch(
        r"interrupted before its first epoch was done, last heard of at .*; it can't go on: start it again", found.told
    )


@pytest.mark.parametrize(
    ("method", "request_", "told"),
    [
        ("batch_infer", {}, "resumable: start it again, it goes on with what is left"),
        ("scoring", {"method": "scores"}, "resumable: start it again, it goes on with what is left"),
        ("scoring", {"method": "dice"}, "start it again"),
    ],
)
def test_others_are_started_again(records, begin, method, request_, told):
    kill(begin(method, request_))
    (found,) = records.interrupted()
    assert re.fullmatch(rf"interrupted, begun at [\d-]+ [\d:]+; {told}", found.told)


def test_what_comes_to_its_end_leaves_nothing(records, tmp_path):
    with records.kept("scoring", {}):
        assert len(list((tmp_path / "jobs").iterdir())) == 1
    with pytest.raises(ValueError, match="bad"), records.kept("train", {}):
        raise ValueError("bad")
    assert list((tmp_path / "jobs").iterdir()) == []
    records.note(run="x")  # after the end


def test_the_next_of_its_kind_replaces_it_but_not_one_that_runs(records, begin):
    kill(begin("scoring"))
    kill(begin("batch_infer"))
    running = begin("train")
    with records.kept("scoring", {}), records.kept("train", {}):
        assert [job.method for job in records.interrupted()] == ["batch_infer"]
    kill(running)
    assert [job.method for job in records.interrupted()] == ["batch_infer", "train"]


def test_one_that_was_stopped_on_purpose_is_forgotten(records, begin):
    stopped, killed = begin("train"), begin("scoring")
    kill(stopped)
    kill(killed)
    records.forget(stopped.pid)
    assert [job.pid for job in records.interrupted()] == [killed.pid]


def test_what_to_send_again():
    request = {"model": "m", "max_epochs": 4, "multi_gpu": True, "gpus": "0,1", "start": "scratch"}
    assert training_told(request, "r", (1, 4), 0).endswith(
        'start a training with {"resume": "r", "max_epochs": 4, "multi_gpu": true, "gpus": "0,1"}'
    )
