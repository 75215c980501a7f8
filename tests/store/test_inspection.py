import errno
import gzip
import os
import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from sqlalchemy import select, update

from lib.errors import BadInputError, NotFoundError, StorageError
from lib.store import images, inspection
from lib.store.events import history
from lib.store.images import FileState
from lib.store.inspection import ensure_fit, fingerprint_of, inspect, inspect_all, is_complete, release_twins
from lib.store.layout import FINAL, Layout
from lib.store.ledger import Ledger
from lib.store.schema import images as images_table
from lib.store.schema import labels as labels_table
from lib.volume import Volume
from lib.volume_io import write_image

on_sqlite = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)  # where no database is in doubt


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    studies = tmp_path / "studies"
    studies.mkdir()
    return Layout(studies)


def ct(seed: int = 0, shape: tuple[int, int, int] = (5, 4, 3)) -> Volume:
    rng = np.random.default_rng(seed)
    return Volume(rng.integers(-1000, 1000, shape, dtype=np.int16), np.diag([2.0, 2.0, 3.0, 1.0]))


def add(ledger: Ledger, layout: Layout, name: str, content: bytes | int = 0) -> Path:
    """An image in the folder and the ledger; of a seed, or of these bytes."""
    path = layout.studies / name
    if isinstance(content, int):
        write_image(path, ct(content))
    else:
        path.write_bytes(content)
    stem, dot, suffix = name.partition(".")
    with ledger.writing() as connection:
        images.register(connection, [(stem, FileState.of(path, dot + suffix))])
    return path


def row(ledger: Ledger, image_id: str) -> Any:
    with ledger.reading() as connection:
        return connection.execute(select(images_table).where(images_table.c.image_id == image_id)).one()


def kinds(ledger: Ledger, image_id: str) -> list[str]:
    with ledger.reading() as connection:
        return [entry.kind for entry in reversed(history(connection, image_id))]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.NII", "a.Nii.GZ"])
def test_inspection_reads_grid_and_fingerprint(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name, ct())
    found = inspect(tmp_path / name, name[1:])
    assert found.grid.shape == (5, 4, 3)
    assert np.array_equal(found.grid.affine, ct().affine)
    assert found.fingerprint == fingerprint_of(tmp_path / name)
    assert is_complete(tmp_path / name, name[1:])


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_one_byte_less_is_truncated(tmp_path: Path, kind: Any, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    nib.save(kind(ct().array, ct().affine), path)
    inspect(path, suffix)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(BadInputError, match=rf"a{suffix}: not a readable {suffix} file \(truncated or damaged\)"):
        inspect(path, suffix)
    assert not is_complete(path, suffix)


def test_big_endian_files_and_trailing_bytes_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(ct().array, ct().affine, nib.Nifti1Header(endianness=">")), path)
    inspect(path, ".nii")
    with path.open("ab") as file:
        file.write(b"more")
    inspect(path, ".nii")


def test_an_unusual_way_of_compressing_is_no_damage(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii", ct())
    content = (tmp_path / "a.nii").read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))  # such as several threads write
    assert inspect(path, ".nii.gz").grid.shape == (5, 4, 3)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.nii.gz", b"", "a.nii.gz: the file is empty"),
        ("a.nii", b"no image at all", "a.nii: not a NIfTI file"),
        ("a.nrrd", b"NRRD0004\n", "a.nrrd: not a readable .nrrd file"),
        ("a.nii.gz", gzip.compress(b"no image at all", mtime=0), "a.nii.gz: not a NIfTI file"),
    ],
)
@on_sqlite
def test_what_is_no_image_is_refused_with_the_reason(
    ledger: Ledger, layout: Layout, name: str, content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    add(ledger, layout, name, content)
    problem = ensure_fit(ledger, layout, "a")
    assert problem is not None
    assert problem.startswith(reason)
    assert row(ledger, "a").problem == problem
    assert not row(ledger, "a").open
    assert ensure_fit(ledger, layout, "a") == problem
    assert kinds(ledger, "a") == ["image refused"]
    assert caplog.text.count(f"the image a is not offered: {problem}") == 1


@on_sqlite
def test_color_and_time_are_refused(ledger: Ledger, layout: Layout) -> None:
    color = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(color, np.eye(4)), layout.studies / "color.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 5), np.int16), np.eye(4)), layout.studies / "time.nii.gz")
    for name in ("color", "time"):
        add(ledger, layout, f"{name}.nii.gz", (layout.studies / f"{name}.nii.gz").read_bytes())
        assert ensure_fit(ledger, layout, name) is not None
        assert not row(ledger, name).open


def test_what_is_fit_is_noted_and_not_read_again(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, layout, "a.nii.gz")
    assert ensure_fit(ledger, layout, "a") is None
    with ledger.reading() as connection:
        image = images.get(connection, "a")
    assert image.grid is not None
    assert image.grid.shape == (5, 4, 3)
    assert row(ledger, "a").open
    monkeypatch.setattr(inspection, "inspect", None)
    assert ensure_fit(ledger, layout, "a") is None


def test_the_later_of_two_with_one_content_is_refused(ledger: Ledger, layout: Layout) -> None:
    for name, seed in {"b": 1, "c": 2, "a": 1}.items():
        add(ledger, layout, f"{name}.nii", seed)
    assert ensure_fit(ledger, layout, "a") is None
    assert ensure_fit(ledger, layout, "c") is None
    assert ensure_fit(ledger, layout, "b") is None, "it was there first"
    assert row(ledger, "a").problem == "has the same content as image 'b'"
    assert ensure_fit(ledger, layout, "a") == "has the same content as image 'b'"
    assert row(ledger, "a").sha256 == row(ledger, "b").sha256
    assert row(ledger, "c").sha256 is None, "only read where it was needed"
    assert [row(ledger, name).open for name in "abc"] == [False, True, True]


@on_sqlite
def test_of_two_with_one_content_the_labelled_one_stays(ledger: Ledger, layout: Layout) -> None:
    for name in "ab":
        add(ledger, layout, f"{name}.nii")
    with ledger.writing() as connection:
        connection.execute(labels_table.insert().values(image_id="b", tag=FINAL, suffix=".nii.gz"))
        images.reckon(connection, ["b"])
    assert ensure_fit(ledger, layout, "b") is None
    assert ensure_fit(ledger, layout, "a") == "has the same content as image 'b'"


@on_sqlite
def test_equal_parts_are_not_equal_contents(ledger: Ledger, layout: Layout) -> None:
    volume = ct(shape=(128, 128, 60))
    write_image(layout.studies / "a.nii", volume)
    content = bytearray((layout.studies / "a.nii").read_bytes())
    add(ledger, layout, "a.nii", bytes(content))
    content[len(content) // 4] ^= 1
    add(ledger, layout, "b.nii", bytes(content))
    assert fingerprint_of(layout.studies / "a.nii") == fingerprint_of(layout.studies / "b.nii")
    assert ensure_fit(ledger, layout, "a") is None
    assert ensure_fit(ledger, layout, "b") is None
    assert row(ledger, "a").sha256 != row(ledger, "b").sha256


@pytest.mark.parametrize("part", [0, 0.5, 1])
def test_the_fingerprint_sees_beginning_middle_and_end(tmp_path: Path, part: float) -> None:
    content = bytearray(1_000_000)
    (tmp_path / "a").write_bytes(content)
    content[int(part * (len(content) - 1))] = 1
    (tmp_path / "b").write_bytes(content)
    (tmp_path / "c").write_bytes(bytes(1_000_001))
    assert len({fingerprint_of(tmp_path / name) for name in "abc"}) == 3
    for size in (0, 1, 65_536, 65_537, 200_000):
        (tmp_path / "small").write_bytes(bytes(size))
        assert len(fingerprint_of(tmp_path / "small")) == 64


def test_two_at_the_same_time_find_each_other(ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        add(ledger, layout, f"{name}.nii")
    plain, both = inspection.note_found, threading.Barrier(2)

    def together(*args: Any) -> bool:
        both.wait(30)
        return plain(*args)

    monkeypatch.setattr(inspection, "note_found", together)
    threads = [threading.Thread(target=ensure_fit, args=(ledger, layout, name)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [row(ledger, name).problem for name in "ab"] == [None, "has the same content as image 'a'"]


def test_a_twin_is_inspected_again_when_the_other_goes(ledger: Ledger, layout: Layout) -> None:
    for name in "abc":
        add(ledger, layout, f"{name}.nii")
    for name in "abc":
        ensure_fit(ledger, layout, name)
    (layout.studies / "a.nii").unlink()
    with ledger.writing() as connection:
        release_twins(connection, ["a"])
        images.note_vanished(connection, ["a"])
    assert [row(ledger, name).problem for name in "bc"] == [None, None]
    assert ensure_fit(ledger, layout, "c") is None, "the other one is still to be inspected"
    assert ensure_fit(ledger, layout, "b") is None
    assert row(ledger, "c").problem == "has the same content as image 'b'"
    assert kinds(ledger, "b") == ["image refused", "image fit"]


@on_sqlite
def test_a_twin_that_goes_meanwhile_does_not_count(ledger: Ledger, layout: Layout) -> None:
    for name in "ab":
        add(ledger, layout, f"{name}.nii")
    ensure_fit(ledger, layout, "a")
    (layout.studies / "a.nii").unlink()
    assert ensure_fit(ledger, layout, "b") is None
    assert row(ledger, "b").open


@on_sqlite
def test_an_image_that_is_gone(ledger: Ledger, layout: Layout) -> None:
    path = add(ledger, layout, "a.nii")
    path.unlink()
    assert ensure_fit(ledger, layout, "a") == "a.nii: there is no such file"
    assert not row(ledger, "a").present
    assert kinds(ledger, "a") == ["image vanished"]
    for name in ("a", "never there"):
        with pytest.raises(NotFoundError, match=f"there is no image '{name}'"):
            ensure_fit(ledger, layout, name)


@on_sqlite
def test_a_share_that_does_not_answer_is_no_fault_of_the_image(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, layout, "a.nii")

    def stale(path: Path) -> Any:
        msg = f"{path.name}: not a readable .nii file"
        raise BadInputError(msg) from OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(inspection, "read_grid", stale)
    assert ensure_fit(ledger, layout, "a") == "it can't be read now: Stale file handle"
    assert row(ledger, "a").open
    monkeypatch.undo()
    assert ensure_fit(ledger, layout, "a") is None


@on_sqlite
def test_a_file_that_may_not_be_read_is_tried_again_by_the_next_pass(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, layout, "a.nii")

    def forbidden(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(inspection, "read_grid", forbidden)
    problem = "reading it is not permitted; change its permissions, then touch the file or start again"
    for _ in range(2):
        assert ensure_fit(ledger, layout, "a") == problem
    inspect_all(ledger, layout, threading.Event())
    monkeypatch.undo()
    assert ensure_fit(ledger, layout, "a") == problem
    inspect_all(ledger, layout, threading.Event())
    assert row(ledger, "a").open
    assert kinds(ledger, "a") == ["image refused", "image fit"]


def test_an_image_that_changes_while_it_is_inspected_is_inspected_again(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add(ledger, layout, "a.nii", b"broken")

    def change_after(path_read: Path, suffix: str, plain: Any = inspect) -> Any:
        monkeypatch.undo()
        try:
            return plain(path_read, suffix)
        finally:
            write_image(path, ct())
            with ledger.writing() as connection:
                images.note_changed(connection, "a", FileState.of(path, ".nii"))

    monkeypatch.setattr(inspection, "inspect", change_after)
    assert ensure_fit(ledger, layout, "a") is None
    assert row(ledger, "a").grid["shape"] == [5, 4, 3]


@on_sqlite
def test_a_ledger_that_refuses_is_not_the_image_s_fault(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, layout, "a.nii")

    def full(*_: Any) -> Any:
        msg = "the disk is full"
        raise StorageError(msg)

    monkeypatch.setattr(inspection, "note_found", full)
    with pytest.raises(StorageError, match="the disk is full"):
        ensure_fit(ledger, layout, "a")
    with pytest.raises(StorageError, match="the disk is full"):
        inspect_all(ledger, layout, threading.Event())


def test_the_pass_inspects_every_image_once(ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_BATCH", 2)
    monkeypatch.setattr(inspection, "_PAUSE_S", 0)
    for number in range(5):
        add(ledger, layout, f"case_{number}.nii.gz", number)
    add(ledger, layout, "broken.nii.gz", b"?")
    add(ledger, layout, "copy.nii.gz", (layout.studies / "case_0.nii.gz").read_bytes())
    add(ledger, layout, "lost.nii.gz").unlink()
    add(ledger, layout, "again.nii.gz", 7)
    with ledger.writing() as connection:  # what a change leaves
        images.note_changed(connection, "again", FileState.of(layout.studies / "again.nii.gz", ".nii.gz"))
    inspect_all(ledger, layout, threading.Event())
    with ledger.reading() as connection:
        fit = images.names(connection, open_only=True)
    assert fit == ["again", *(f"case_{number}" for number in range(5))]
    monkeypatch.setattr(inspection, "inspect", None)
    inspect_all(ledger, layout, threading.Event())


@on_sqlite
def test_the_pass_can_be_stopped(ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        add(ledger, layout, f"case_{number}.nii.gz", number)
    stop = threading.Event()
    plain = inspection.inspect

    def last(*args: Any) -> Any:
        stop.set()
        return plain(*args)

    monkeypatch.setattr(inspection, "inspect", last)
    inspect_all(ledger, layout, stop)
    inspect_all(ledger, layout, stop)
    assert [row(ledger, f"case_{number}").fingerprint is not None for number in range(3)] == [True, False, False]


@on_sqlite
def test_images_excluded_by_somebody_stay_excluded(ledger: Ledger, layout: Layout) -> None:
    add(ledger, layout, "a.nii")
    with ledger.writing() as connection:
        connection.execute(update(images_table).values(excluded="too noisy"))
        images.reckon(connection, ["a"])
    assert ensure_fit(ledger, layout, "a") is None
    assert not row(ledger, "a").open
