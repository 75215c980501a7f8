import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, select
from watchdog.events import FileCreatedEvent, FileMovedEvent

from lib.errors import StorageError
from lib.files import atomic_write
from lib.store import images, watch
from lib.store.images import FileState
from lib.store.layout import FINAL, Layout
from lib.store.ledger import Ledger
from lib.store.scan import Changes, scan
from lib.store.schema import labels as labels_table
from lib.store.schema import versions as versions_table
from lib.store.watch import Watcher
from lib.volume import Volume
from lib.volume_io import write_image

NEVER = 1e6
CT = Volume(np.linspace(-1000, 500, 64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    studies = tmp_path / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    return Layout(studies)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_QUIET_S", 0.01)
    monkeypatch.setattr(watch, "_UNSETTLED_S", 0.05)


class Seen:
    """What a watcher reported."""

    def __init__(self, ledger: Ledger, layout: Layout) -> None:
        self.changes: list[Changes] = []
        self.rescans = 0
        self._ledger, self._layout = ledger, layout

    def rescan(self) -> Changes:
        changes = scan(self._ledger, self._layout)
        self.rescans += 1
        return changes

    @property
    def found(self) -> set[tuple[str, str]]:
        return {label for changes in self.changes for label in changes.labels_found}

    @property
    def missing(self) -> set[tuple[str, str]]:
        return {label for changes in self.changes for label in changes.labels_missing}


@contextmanager
def watching(ledger: Ledger, layout: Layout, every_s: float = NEVER, **calls: Any) -> Iterator[Seen]:
    seen = Seen(ledger, layout)
    on_change = calls.get("on_change", lambda changes: None)

    def note(changes: Changes) -> None:
        seen.changes.append(changes)
        on_change(changes)

    with Watcher(ledger, layout, note, calls.get("rescan", seen.rescan), every_s):
        wait_until(lambda: seen.rescans or "rescan" in calls)
        yield seen


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def known(ledger: Ledger) -> list[str]:
    with ledger.reading() as connection:
        return images.names(connection)


def put(path: Path, content: bytes = b"voxels") -> Path:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    os.utime(path, (1_000, 1_000))
    return path


@pytest.mark.usefixtures("quick")
def test_images_that_come_change_and_go_are_noticed(ledger: Ledger, layout: Layout) -> None:
    with watching(ledger, layout) as seen:
        write_image(layout.studies / "a.nii.gz", CT)
        wait_until(lambda: known(ledger) == ["a"])
        (layout.studies / "a.nii.gz").rename(layout.studies / "b.nii.gz")
        wait_until(lambda: known(ledger) == ["b"])
        write_image(layout.studies / "b.nii.gz", Volume(CT.array[:3], CT.affine))
        wait_until(lambda: any(changes.images_changed == ["b"] for changes in seen.changes))
        (layout.studies / "b.nii.gz").rename(layout.studies.parent / "elsewhere.nii.gz")
        wait_until(lambda: known(ledger) == [])
        (layout.studies / "link.nii.gz").symlink_to(layout.studies.parent / "elsewhere.nii.gz")
        wait_until(lambda: known(ledger) == ["link"])
        (layout.studies / "link.nii.gz").unlink()
        wait_until(lambda: known(ledger) == [])
        assert seen.rescans == 1


@pytest.mark.usefixtures("quick")
def test_labels_are_noticed_in_old_and_new_folders(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    with watching(ledger, layout) as seen:
        put(layout.tag(FINAL) / "a.nii.gz")
        wait_until(lambda: ("a", FINAL) in seen.found)
        put(layout.tag("new") / "a.nii.gz")
        wait_until(lambda: ("a", "new") in seen.found)
        put(layout.studies / "b.nii.gz")
        wait_until(lambda: known(ledger) == ["a", "b"])
        put(layout.tag("new") / "b.nii.gz")
        wait_until(lambda: ("b", "new") in seen.found)
        layout.tag("new").rename(layout.tag("renamed"))
        wait_until(lambda: {("a", "renamed"), ("b", "renamed")} <= seen.found and ("a", "new") in seen.missing)
        put(layout.tag("new") / "a.nii.gz")
        seen.changes.clear()
        put(layout.tag("new") / "b.nii.gz")
        wait_until(lambda: ("b", "new") in seen.found)
        (layout.tag(FINAL) / "a.nii.gz").unlink()
        wait_until(lambda: ("a", FINAL) in seen.missing)
        assert seen.rescans == 1


@pytest.mark.usefixtures("quick")
def test_a_folder_of_labels_that_is_made_later_is_watched(ledger: Ledger, layout: Layout) -> None:
    layout.tag(FINAL).rmdir()
    layout.labels.rmdir()
    put(layout.studies / "a.nii.gz")
    with watching(ledger, layout) as seen:
        put(layout.tag(FINAL) / "a.nii.gz")
        wait_until(lambda: ("a", FINAL) in seen.found)
        put(layout.tag("other") / "a.nii.gz")
        wait_until(lambda: ("a", "other") in seen.found)


@pytest.mark.usefixtures("quick")
def test_what_is_not_ours_is_not_looked_at(ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[Path] = []
    plain = watch.look_at

    def noted(ledger: Ledger, layout: Layout, path: Path, *, of_images: bool) -> Changes:
        looked_at.append(path)
        return plain(ledger, layout, path, of_images=of_images)

    monkeypatch.setattr(watch, "look_at", noted)
    (layout.labels / "refused" / "a").mkdir(parents=True)
    with watching(ledger, layout):
        put(layout.ledger / "versions" / "a" / "final" / "1.nii.gz")
        put(layout.labels / "refused" / "a" / "1.nii.gz")
        put(layout.labels / "refused" / "b" / "1.nii.gz")
        (layout.studies / "._a.nii.gz").touch()
        (layout.tag(FINAL) / ".writing-1-a.nii.gz").touch()
        put(layout.studies / "last.nii.gz")
        wait_until(lambda: known(ledger) == ["last"])
    assert set(looked_at) <= {layout.studies / "last.nii.gz", layout.ledger}


@pytest.mark.usefixtures("quick")
def test_what_the_store_itself_shows_is_no_change(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    with watching(ledger, layout) as seen:
        with ledger.writing() as connection:
            inserted = connection.execute(
                insert(versions_table).values(
                    image_id="a", tag=FINAL, number=1, file="a", size=6, sha256="", author="me", source="client",
                    saved_at=1.0, info={},
                )
            )  # fmt: skip
            state = FileState.of(put(layout.shown("a", FINAL)), ".nii.gz")
            connection.execute(
                insert(labels_table).values(
                    image_id="a", tag=FINAL, suffix=state.suffix, version_id=inserted.inserted_primary_key[0],
                    shown_size=state.size, shown_modified_ns=state.modified_ns,
                )
            )  # fmt: skip
        put(layout.tag(FINAL) / "last.nii.gz")
        put(layout.studies / "last.nii.gz")
        wait_until(lambda: ("last", FINAL) in seen.found)
        assert seen.found == {("last", FINAL)}


@pytest.mark.usefixtures("quick")
def test_a_file_that_is_still_being_written_is_looked_at_again(ledger: Ledger, layout: Layout) -> None:
    write_image(layout.studies.parent / "whole.nii", CT)
    content = (layout.studies.parent / "whole.nii").read_bytes()
    with watching(ledger, layout, rescan=lambda: None), (layout.studies / "a.nii").open("wb") as file:
        file.write(content[:-1])
        file.flush()
        # Old enough to pass as complete once it is looked at again, without any further event.
        wait_until(lambda: known(ledger) == ["a"])


@pytest.mark.usefixtures("quick")
def test_what_a_rescan_finds_unsettled_is_looked_at_again(ledger: Ledger, layout: Layout) -> None:
    path = layout.studies / "a.nii"
    put(path)
    looks: list[Changes] = []

    def rescan() -> Changes:
        looks.append(Changes(unsettled=[path]))
        return looks[-1]

    with watching(ledger, layout, rescan=rescan):
        wait_until(lambda: known(ledger) == ["a"])
    assert len(looks) == 1


def test_the_folder_is_looked_through_from_time_to_time(ledger: Ledger, layout: Layout) -> None:
    with watching(ledger, layout, every_s=0.01) as seen:
        wait_until(lambda: seen.rescans >= 3)


@pytest.mark.usefixtures("quick")
def test_a_flood_of_changes_becomes_one_look_through_the_folder(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_QUIET_S", 0.5)
    monkeypatch.setattr(watch, "_MOST_FILES", 10)
    with watching(ledger, layout) as seen:
        for number in range(30):
            put(layout.studies / f"case_{number:02}.nii.gz")
        wait_until(lambda: len(known(ledger)) == 30 and seen.rescans >= 2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("where", ["on_change", "rescan"])
def test_one_failure_is_one_line_and_the_watching_goes_on(
    ledger: Ledger, layout: Layout, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    failed = threading.Event()

    def fail_once(*_: Any) -> None:
        if not failed.is_set():
            failed.set()
            msg = "the disk is full"
            raise StorageError(msg)

    with watching(ledger, layout, **{where: fail_once}):
        put(layout.studies / "a.nii.gz")
        wait_until(failed.is_set)
        put(layout.studies / "b.nii.gz")
        wait_until(lambda: known(ledger) == ["a", "b"])
    [record] = [record for record in caplog.records if record.name == "lib.store.watch"]
    assert record.getMessage().endswith("can't be looked at now: the disk is full")
    assert record.exc_info is None


@pytest.mark.usefixtures("quick")
def test_a_failure_of_ours_is_logged_in_full(ledger: Ledger, layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Changes) -> None:
        raise ZeroDivisionError

    with watching(ledger, layout, on_change=fail):
        put(layout.studies / "a.nii.gz")
        wait_until(lambda: "looking at a.nii.gz failed" in caplog.text)
        put(layout.studies / "b.nii.gz")
        wait_until(lambda: known(ledger) == ["a", "b"])
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("what", ["instance", "watch"])
def test_without_the_system_s_help_the_rescan_remains(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, f"inotify {what} limit reached")

    if what == "instance":
        monkeypatch.setattr(watch, "Observer", refuse)
    else:
        monkeypatch.setattr(watch.Observer, "schedule", refuse)
    with watching(ledger, layout, every_s=0.01):
        put(layout.studies / "a.nii.gz")
        wait_until(lambda: known(ledger) == ["a"])
    assert f"changes in {layout.studies} are not noticed at once (inotify {what} limit reached; raise" in caplog.text


def test_start_and_stop_can_be_repeated_and_leave_no_thread(ledger: Ledger, layout: Layout) -> None:
    before = set(threading.enumerate())
    watcher = Watcher(ledger, layout, lambda _: None, lambda: None, NEVER)
    watcher.stop()
    for _ in range(2):
        watcher.start()
        watcher.start()
        assert len([thread for thread in threading.enumerate() if thread.name == "watch-studies"]) == 1
        watcher.stop()
        watcher.stop()
        assert set(threading.enumerate()) <= before


def test_files_still_due_are_left_at_the_end(ledger: Ledger, layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), watching(ledger, layout):
        for number in range(20):
            put(layout.studies / f"case_{number}.nii.gz")
    with ledger.reading() as connection:
        connection.execute(select(labels_table)).all()
    assert [record for record in caplog.records if record.name == "lib.store.watch"] == []


def test_both_ends_of_a_move_are_looked_at_but_no_hidden_ones() -> None:
    noted: list[Path] = []
    handler = watch._Handler(noted.append)
    handler.dispatch(FileMovedEvent("/s/a.nii", "/s/b.nii"))
    handler.dispatch(FileMovedEvent("/s/.writing-a.nii", "/s/c.nii"))
    handler.dispatch(FileCreatedEvent(b"/s/d.nii"))
    assert noted == [Path("/s/a.nii"), Path("/s/b.nii"), Path("/s/c.nii"), Path("/s/d.nii")]
