import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, event, insert, select, update

from lib.errors import UnavailableError
from lib.store import images
from lib.store import scan as scan_module
from lib.store.events import history
from lib.store.images import FileState
from lib.store.layout import FINAL, Layout
from lib.store.ledger import Ledger
from lib.store.scan import Changes, look_at, scan
from lib.store.schema import images as images_table
from lib.store.schema import labels as labels_table
from lib.store.schema import versions as versions_table
from lib.volume import Volume
from lib.volume_io import IMAGE_SUFFIXES, LABEL_SUFFIXES, write_image

OLD = time.time() - 1_000
on_sqlite = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)  # where no database is in doubt


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    studies = tmp_path / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    return Layout(studies)


def put(path: Path, content: bytes = b"voxels", modified: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


def known_images(ledger: Ledger) -> dict[str, tuple[str, int, int]]:
    with ledger.reading() as connection:
        rows = connection.execute(select(images_table).where(images_table.c.present))
        return {row.image_id: (row.suffix, row.size, row.modified_ns) for row in rows}


def known_labels(ledger: Ledger) -> set[tuple[str, str]]:
    with ledger.reading() as connection:
        return {(row.image_id, row.tag) for row in connection.execute(select(labels_table))}


def open_images(ledger: Ledger) -> list[str]:
    with ledger.reading() as connection:
        return images.names(connection, open_only=True)


def kinds(ledger: Ledger, image_id: str | None = None) -> list[str]:
    with ledger.reading() as connection:
        return [entry.kind for entry in reversed(history(connection, image_id, limit=1_000))]


def label_row(ledger: Ledger, image_id: str, tag: str = FINAL) -> Any:
    with ledger.reading() as connection:
        query = select(labels_table).where(labels_table.c.image_id == image_id, labels_table.c.tag == tag)
        return connection.execute(query).one()


def make_version(ledger: Ledger, path: Path, image_id: str, tag: str = FINAL, *, shown: bool = True) -> None:
    """As if the label in `path` had been saved, and shown there."""
    state = FileState.of(path, ".nii.gz")
    with ledger.writing() as connection:
        inserted = connection.execute(
            insert(versions_table).values(
                image_id=image_id, tag=tag, number=1, file=f"{image_id}/{tag}", size=state.size, sha256="", author="me",
                source="client", saved_at=1.0, info={},
            )
        )  # fmt: skip
        values = {
            "suffix": ".nii.gz",
            "version_id": inserted.inserted_primary_key[0],
            "shown_size": state.size if shown else None,
            "shown_modified_ns": state.modified_ns if shown else None,
        }
        connection.execute(delete(labels_table).where(labels_table.c.image_id == image_id, labels_table.c.tag == tag))
        connection.execute(insert(labels_table).values(image_id=image_id, tag=tag, **values))
        images.reckon(connection, [image_id])


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[str]]:
    """The first word of each statement that the database gets."""
    seen: list[str] = []

    def listen(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement.split()[0].upper())

    event.listen(ledger.engine, "before_cursor_execute", listen)
    yield seen
    event.remove(ledger.engine, "before_cursor_execute", listen)


def test_new_images_are_listed(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "b.nrrd")
    put(layout.studies / "a.nii.gz", b"12345")
    put(layout.studies / "c.NII")
    changes = scan(ledger, layout)
    assert changes == Changes(images_added=3)
    assert known_images(ledger) == {
        "a": (".nii.gz", 5, (layout.studies / "a.nii.gz").stat().st_mtime_ns),
        "b": (".nrrd", 6, (layout.studies / "b.nrrd").stat().st_mtime_ns),
        "c": (".NII", 6, (layout.studies / "c.NII").stat().st_mtime_ns),
    }
    assert open_images(ledger) == ["a", "b", "c"]


@on_sqlite
def test_what_is_no_image_is_left_alone(ledger: Ledger, layout: Layout) -> None:
    for name in ["._a.nii.gz", ".writing-0-a.nii", "a.seg.nrrd", "a.json", "notes.txt", "deeper/a.nii"]:
        put(layout.studies / name)
    (layout.studies / "folder.nii.gz").mkdir()
    (layout.studies / "lost.nii").symlink_to("nowhere.nii")
    assert not scan(ledger, layout)
    assert known_images(ledger) == {}
    assert kinds(ledger) == []


@on_sqlite
def test_a_link_counts_under_its_own_name(ledger: Ledger, layout: Layout, tmp_path: Path) -> None:
    target = put(tmp_path / "elsewhere" / "series.nii.gz")
    (layout.studies / "case_1.nii.gz").symlink_to(target)
    scan(ledger, layout)
    assert known_images(ledger) == {"case_1": (".nii.gz", 6, target.stat().st_mtime_ns)}
    target.unlink()
    assert scan(ledger, layout).images_vanished == ["case_1"]


def test_of_one_image_in_several_formats_one_counts_and_the_others_are_reported_once(
    ledger: Ledger, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in IMAGE_SUFFIXES:
        put(layout.studies / f"a{suffix}")
    for _ in range(2):
        scan(ledger, layout)
    assert known_images(ledger)["a"][0] == ".nii.gz"
    with ledger.reading() as connection:
        found = [(entry.kind, entry.detail) for entry in history(connection, "a")]
    assert sorted(found, key=str) == [
        ("image ignored", {"file": "a.nii", "reason": "a.nii.gz is used"}),
        ("image ignored", {"file": "a.nrrd", "reason": "a.nii.gz is used"}),
    ]
    assert caplog.text.count("a.nrrd is ignored: a.nii.gz is used") == 1
    (layout.studies / "a.nii.gz").unlink()
    assert scan(ledger, layout).images_changed == ["a"]
    assert known_images(ledger)["a"][0] == ".nii"


def test_names_that_the_ledger_cannot_hold_are_reported_once(
    ledger: Ledger, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    put(layout.studies / os.fsdecode(b"case_\xff.nii.gz"))
    put(layout.studies / "back\\slash.nii.gz")
    put(layout.tag(FINAL) / os.fsdecode(b"case_\xff.nii.gz"))
    put(layout.labels / os.fsdecode(b"tag_\xff") / "a.nii.gz")
    put(layout.studies / "good.nii.gz")
    for _ in range(2):
        scan(ledger, layout)
    for folder in (layout.studies, layout.tag(FINAL)):
        assert not look_at(ledger, layout, folder / os.fsdecode(b"case_\xff.nii.gz"))
    assert list(known_images(ledger)) == ["good"]
    assert known_labels(ledger) == set()
    with ledger.reading() as connection:
        found = {(entry.kind, entry.detail["file"]): entry.detail["reason"] for entry in history(connection)}
    assert len(found) == len(kinds(ledger)) == 4
    assert found["image ignored", "case_\\udcff.nii.gz"] == "its name is not UTF-8; rename it"
    assert "is not allowed" in found["image ignored", "back\\slash.nii.gz"]
    assert ("label ignored", "labels/final/case_\\udcff.nii.gz") in found
    assert ("label ignored", "labels/tag_\\udcff") in found
    assert caplog.text.count("is ignored: its name is not UTF-8; rename it") == 3


@on_sqlite
def test_vanished_and_back(ledger: Ledger, layout: Layout) -> None:
    path = put(layout.studies / "a.nii.gz")
    scan(ledger, layout)
    path.unlink()
    assert scan(ledger, layout) == Changes(images_vanished=["a"])
    assert not scan(ledger, layout)
    assert open_images(ledger) == []
    put(path)
    assert scan(ledger, layout) == Changes(images_changed=["a"])
    assert open_images(ledger) == ["a"]
    assert kinds(ledger, "a") == ["image vanished", "image is back"]


@on_sqlite
def test_a_changed_image_with_labels_is_warned_of(
    ledger: Ledger, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    put(layout.studies / "a.nii.gz")
    put(layout.studies / "b.nii.gz")
    put(layout.tag(FINAL) / "a.nii.gz")
    scan(ledger, layout)
    for name in "ab":
        put(layout.studies / f"{name}.nii.gz", b"another")
    assert scan(ledger, layout).images_changed == ["a", "b"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["the image a is another file now; it has labels that were made on the old one"]


@on_sqlite
def test_a_change_lets_labels_that_did_not_fit_be_checked_again(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    label = put(layout.tag(FINAL) / "a.nii.gz")
    scan(ledger, layout)
    note_label_problem(ledger, label, "a")
    assert not scan(ledger, layout)
    put(layout.studies / "a.nii.gz", b"another")
    changes = scan(ledger, layout)
    assert changes.images_changed == ["a"]
    assert changes.labels_found == [("a", FINAL)]
    assert label_row(ledger, "a").problem is None


def note_label_problem(ledger: Ledger, path: Path, image_id: str) -> None:
    state = FileState.of(path, ".nii.gz")
    with ledger.writing() as connection:
        connection.execute(
            update(labels_table)
            .where(labels_table.c.image_id == image_id)
            .values(problem="no", shown_size=state.size, shown_modified_ns=state.modified_ns)
        )


def test_an_image_refused_as_a_copy_is_free_when_the_other_goes(ledger: Ledger, layout: Layout) -> None:
    for name in "ab":
        put(layout.studies / f"{name}.nii.gz")
    scan(ledger, layout)
    with ledger.writing() as connection:
        connection.execute(update(images_table).values(fingerprint="same"))
        images.note_problem(connection, "b", "has the same content as image 'a'")
    assert open_images(ledger) == ["a"]
    (layout.studies / "a.nii.gz").unlink()
    scan(ledger, layout)
    assert open_images(ledger) == ["b"]


def test_a_labelled_image_is_never_offered(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    put(layout.studies / "b.nii.gz")
    put(layout.tag(FINAL) / "a.seg.nrrd")
    put(layout.tag("original") / "b.nii.gz")
    put(layout.labels / "refused" / "b" / "b.nii.gz")
    put(layout.labels / "refused" / "b.nii.gz")
    put(layout.labels / ".hidden" / "b.nii.gz")
    put(layout.labels / "readme.txt")
    seen: list[list[str]] = []
    changes = scan(ledger, layout, progress=lambda _: seen.append(open_images(ledger)))
    assert seen[-1] == ["b"]
    assert not any("a" in names for names in seen)
    assert changes.labels_found == [("a", FINAL), ("b", "original")]
    assert known_labels(ledger) == {("a", FINAL), ("b", "original")}
    row = label_row(ledger, "a")
    assert (row.suffix, row.version_id, row.problem, row.shown_size) == (".seg.nrrd", None, None, None)


@on_sqlite
def test_a_label_waits_for_its_image(ledger: Ledger, layout: Layout) -> None:
    put(layout.tag(FINAL) / "a.nii.gz")
    assert not scan(ledger, layout)
    assert known_labels(ledger) == {("a", FINAL)}
    put(layout.studies / "a.nii.gz")
    changes = scan(ledger, layout)
    assert changes == Changes(images_added=1, labels_found=[("a", FINAL)])
    assert open_images(ledger) == []


@on_sqlite
def test_a_label_that_is_shown_is_no_change(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    path = put(layout.tag(FINAL) / "a.nii.gz")
    scan(ledger, layout)
    make_version(ledger, path, "a")
    assert not scan(ledger, layout)
    assert not look_at(ledger, layout, path)


@on_sqlite
@pytest.mark.parametrize("how", ["content", "time", "another format", "not shown yet", "not shown yet, no file"])
def test_a_label_that_is_not_what_is_shown_is_found(ledger: Ledger, layout: Layout, how: str) -> None:
    put(layout.studies / "a.nii.gz")
    path = put(layout.tag(FINAL) / "a.nii.gz")
    scan(ledger, layout)
    make_version(ledger, path, "a", shown=not how.startswith("not shown"))
    if how == "content":
        put(path, b"longer than it was")
    elif how == "time":
        put(path, modified=OLD + 1)
    elif how == "another format":
        put(path.with_name("a.seg.nrrd"), modified=OLD - 1_000)
    elif how.endswith("no file"):
        path.unlink()
    assert scan(ledger, layout) == Changes(labels_found=[("a", FINAL)])
    assert look_at(ledger, layout, path) == Changes(labels_found=[("a", FINAL)])


@on_sqlite
@pytest.mark.parametrize("version", [False, True])
def test_a_label_whose_file_is_gone_is_missing(ledger: Ledger, layout: Layout, version: bool) -> None:
    put(layout.studies / "a.nii.gz")
    path = put(layout.tag(FINAL) / "a.nii.gz")
    scan(ledger, layout)
    if version:
        make_version(ledger, path, "a")
    path.unlink()
    path.parent.rmdir()
    assert scan(ledger, layout).labels_missing == [("a", FINAL)]
    assert look_at(ledger, layout, path).labels_missing == [("a", FINAL)]
    assert look_at(ledger, layout, path.parent).labels_missing == [("a", FINAL)]
    assert look_at(ledger, layout, layout.labels).labels_missing == [("a", FINAL)]
    assert known_labels(ledger) == {("a", FINAL)}, "what becomes of it is for others to say"


@on_sqlite
def test_a_label_that_did_not_fit_is_looked_at_again_when_it_changes(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    path = put(layout.tag(FINAL) / "a.nii.gz")
    scan(ledger, layout)
    note_label_problem(ledger, path, "a")
    assert not scan(ledger, layout)
    put(path.with_name("a.nrrd"), modified=OLD - 1_000)
    assert not scan(ledger, layout), "of two that did not fit the last written is noted"
    put(path, b"corrected")
    assert scan(ledger, layout).labels_found == [("a", FINAL)]
    assert label_row(ledger, "a").problem is None


@on_sqlite
def test_a_file_that_is_being_written_waits(ledger: Ledger, layout: Layout) -> None:
    whole = Volume(np.linspace(-1000, 500, 64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    write_image(layout.studies / "whole.nii", whole)
    write_image(layout.studies / "whole.nii.gz", whole)
    write_image(layout.studies / "ready.nii.gz", whole)
    part, packed = layout.studies / "part.nii", layout.studies / "packed.nii.gz"
    part.write_bytes((layout.studies / "whole.nii").read_bytes()[:-1])
    packed.write_bytes((layout.studies / "whole.nii.gz").read_bytes()[:-9])
    for look in (lambda path: scan(ledger, layout).unsettled, lambda path: look_at(ledger, layout, path).unsettled):
        assert part in look(part)
        assert packed in look(packed)
    assert sorted(known_images(ledger)) == ["ready", "whole"]
    for path in (part, packed):
        os.utime(path, (OLD, OLD))
    assert scan(ledger, layout) == Changes(images_added=2), "as it is: inspection says what is wrong with it"


@on_sqlite
def test_a_known_image_that_is_written_over_stays_until_it_is_complete(ledger: Ledger, layout: Layout) -> None:
    path = put(layout.studies / "a.nii.gz")
    scan(ledger, layout)
    before = known_images(ledger)
    path.write_bytes(b"be")
    assert scan(ledger, layout) == Changes(unsettled=[path])
    assert known_images(ledger) == before


@on_sqlite
def test_a_file_from_the_future_is_listed(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz", modified=time.time() + 10_000)
    assert scan(ledger, layout) == Changes(images_added=1)


def test_a_missing_disk_removes_nothing(ledger_url: str, layout: Layout) -> None:
    ledger = Ledger(ledger_url, belongs_to=layout.studies_id())
    put(layout.studies / "a.nii.gz")
    scan(ledger, layout)
    away = layout.studies.rename(layout.studies.with_name("away"))
    with pytest.raises(UnavailableError, match=r"is not the studies folder that the ledger .* knows"):
        scan(ledger, layout)
    layout.studies.mkdir()
    with pytest.raises(UnavailableError, match="check that its disk or network share is there"):
        scan(ledger, layout)
    with pytest.raises(UnavailableError):
        look_at(ledger, layout, layout.studies / "a.nii.gz")
    assert list(known_images(ledger)) == ["a"]
    layout.studies.rmdir()
    away.rename(layout.studies)
    assert not scan(ledger, layout)
    ledger.close()


def test_what_another_process_noted_meanwhile_counts(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(layout.studies / "a.nii.gz")
    put(layout.tag(FINAL) / "a.nii.gz")
    plain = scan_module._Look._files

    def also(*args: Any) -> Any:
        files = plain(*args)
        monkeypatch.undo()
        scan(ledger, layout)  # the other one is faster from here on
        return files

    monkeypatch.setattr(scan_module._Look, "_files", also)
    changes = scan(ledger, layout)
    assert changes.images_added == 0
    assert sorted(known_images(ledger)) == ["a"]
    assert known_labels(ledger) == {("a", FINAL)}


@on_sqlite
def test_look_at_finds_what_happened_to_one_file(ledger: Ledger, layout: Layout) -> None:
    path = put(layout.studies / "a.nii.gz")
    put(layout.studies / "b.nii.gz")
    assert look_at(ledger, layout, path) == Changes(images_added=1)
    assert not look_at(ledger, layout, path)
    put(path, b"another")
    assert look_at(ledger, layout, path) == Changes(images_changed=["a"])
    other = put(layout.studies / "a.nii")
    assert not look_at(ledger, layout, other)
    assert "image ignored" in kinds(ledger, "a")
    path.unlink()
    assert look_at(ledger, layout, path) == Changes(images_changed=["a"])
    other.unlink()
    assert look_at(ledger, layout, other) == Changes(images_vanished=["a"])
    label = put(layout.tag("new tag") / "a.nii.gz")
    assert not look_at(ledger, layout, label)
    assert known_labels(ledger) == {("a", "new tag")}
    assert look_at(ledger, layout, put(path)) == Changes(images_changed=["a"], labels_found=[("a", "new tag")])
    assert look_at(ledger, layout, label) == Changes(labels_found=[("a", "new tag")])


@on_sqlite
def test_look_at_an_image_sees_its_label_first(ledger: Ledger, layout: Layout) -> None:
    put(layout.tag(FINAL) / "a.nrrd")
    assert look_at(ledger, layout, put(layout.studies / "a.nii.gz")).labels_found == [("a", FINAL)]
    assert open_images(ledger) == []


@on_sqlite
def test_look_at_a_folder_of_labels(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    scan(ledger, layout)
    put(layout.tag("original") / "a.nii.gz")
    assert look_at(ledger, layout, layout.tag("original")) == Changes(labels_found=[("a", "original")])


@on_sqlite
@pytest.mark.parametrize(
    "name",
    [
        ".hidden.nii.gz", "notes.txt", "ledger/x.nii.gz", "labels/refused", "labels/refused/a.nii.gz", "labels/x.txt",
        "labels/refused/a/b.nii.gz", "labels/final/.x.nii.gz", "labels/final/x.txt", "../a.nii.gz",
    ],
)  # fmt: skip
def test_look_at_ignores_what_is_not_ours(ledger: Ledger, layout: Layout, name: str) -> None:
    path = put(layout.studies / name) if "." in Path(name).name else layout.studies / name
    assert not look_at(ledger, layout, path)
    assert known_images(ledger) == {}
    assert known_labels(ledger) == set()
    assert kinds(ledger) == []


def expected_images(layout: Layout) -> dict[str, tuple[str, int, int]]:
    """Of the folder, found in the plainest way."""
    found = {}
    for suffix in (".nrrd", ".nii", ".nii.gz"):  # the later one counts
        for path in layout.studies.glob(f"*{suffix}"):
            status = path.stat()
            found[path.name.removesuffix(suffix)] = (suffix, status.st_size, status.st_mtime_ns)
    return found


def expected_labels(layout: Layout) -> set[tuple[str, str]]:
    found = set()
    for suffix in LABEL_SUFFIXES:
        for path in layout.labels.glob(f"*/*{suffix}"):
            found.add((path.name.removesuffix(suffix).removesuffix(".seg"), path.parent.name))
    return found


def change_something(rng: random.Random, layout: Layout, turn: int) -> None:
    name = f"case_{rng.choice('abcdefghij')}{rng.choice(['', '-1', '.2', '_ä'])}"
    if rng.random() < 0.5:
        path = layout.studies / f"{name}{rng.choice(IMAGE_SUFFIXES)}"
    else:
        path = layout.tag(rng.choice(["final", "original"])) / f"{name}{rng.choice(LABEL_SUFFIXES)}"
    if path.exists() and rng.random() < 0.6:
        path.unlink()
    else:
        put(path, b"x" * rng.randrange(1, 50), OLD + turn)


def assert_equal_to_folder(ledger: Ledger, layout: Layout) -> None:
    assert known_images(ledger) == expected_images(layout)
    final = {name for name, tag in known_labels(ledger) if tag == FINAL}
    assert set(open_images(ledger)) == set(expected_images(layout)) - final


def forget(ledger: Ledger, missing: list[tuple[str, str]]) -> None:
    """What the store does about labels that are gone."""
    with ledger.writing() as connection:
        for name, tag in missing:
            connection.execute(delete(labels_table).where(labels_table.c.image_id == name, labels_table.c.tag == tag))
        images.reckon(connection, [name for name, _ in missing])


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize("seed", range(3))
def test_after_any_changes_the_ledger_is_what_the_folder_is(
    ledger: Ledger, layout: Layout, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "_CHUNK", 3)
    monkeypatch.setattr(scan_module, "_PAGE", 4)
    rng = random.Random(seed)
    for turn in range(8):
        for _ in range(rng.randrange(1, 30)):
            change_something(rng, layout, turn)
        if rng.random() < 0.4:
            left = rng.randrange(3)

            def interrupt(done: int, left: int = left) -> None:
                if done >= 3 * left:
                    raise InterruptionError

            with pytest.raises(InterruptionError):
                scan(ledger, layout, progress=interrupt)
        changes = scan(ledger, layout)
        assert set(changes.labels_missing) == known_labels(ledger) - expected_labels(layout)
        forget(ledger, changes.labels_missing)
        assert known_labels(ledger) == expected_labels(layout)
        assert_equal_to_folder(ledger, layout)
        waiting = [(name, tag) for name, tag in sorted(expected_labels(layout)) if name in expected_images(layout)]
        assert changes.labels_found == waiting
        with statements(ledger) as seen:
            assert scan(ledger, layout) == Changes(labels_found=waiting)
        assert not {"INSERT", "UPDATE", "DELETE"} & set(seen)


@pytest.mark.parametrize("seed", range(2))
def test_looking_at_each_changed_file_is_as_good_as_a_scan(ledger: Ledger, layout: Layout, seed: int) -> None:
    rng = random.Random(100 + seed)
    for turn in range(6):
        before = {*layout.studies.glob("*.n*"), *layout.labels.glob("*/*")}
        states = {path: path.stat().st_mtime_ns for path in before}
        for _ in range(10):
            change_something(rng, layout, turn)
        after = {*layout.studies.glob("*.n*"), *layout.labels.glob("*/*")}
        for path in sorted(before | after):
            if not path.exists() or states.get(path) != path.stat().st_mtime_ns:
                forget(ledger, look_at(ledger, layout, path).labels_missing)
        assert_equal_to_folder(ledger, layout)
        assert known_labels(ledger) == expected_labels(layout)
        changes = scan(ledger, layout)
        assert (changes.images_added, changes.images_changed, changes.images_vanished) == (0, [], [])
        assert changes.labels_missing == []


@on_sqlite
def test_interrupted_it_has_noted_what_it_has_seen(
    ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "_CHUNK", 10)
    for number in range(50):
        put(layout.studies / f"case_{number:02}.nii")

    def interrupt(done: int) -> None:
        if done == 30:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        scan(ledger, layout, progress=interrupt)
    assert sorted(known_images(ledger)) == [f"case_{number:02}" for number in range(30)]
    assert scan(ledger, layout) == Changes(images_added=20)


def test_twenty_thousand_names_cost_few_statements_and_a_file_as_many_as_among_ten(tmp_path: Path) -> None:
    counts = {}
    for number in (10, 20_000):
        layout = Layout(tmp_path / str(number))
        layout.studies.mkdir()
        ledger = Ledger(f"sqlite:///{tmp_path}/{number}.sqlite")
        for index in range(number):
            put(layout.studies / f"case_{index:05}.nii.gz", b"")
        assert scan(ledger, layout).images_added == number
        with statements(ledger) as seen:
            assert not scan(ledger, layout)
        assert len(seen) <= number / 1_000 + 20
        assert set(seen) <= {"SELECT", "BEGIN", "PRAGMA"}
        with statements(ledger) as seen:
            assert not look_at(ledger, layout, layout.studies / "case_00000.nii.gz")
        counts[number] = len(seen)
        ledger.close()
    assert counts[10] == counts[20_000]
