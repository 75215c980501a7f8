"""Every disagreement is named, and repaired without losing anything."""

import contextlib
import os
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, update

from lib.errors import NotFoundError
from lib.files import file_sha256
from lib.store import audit, events, images, leases, refused, schema, versions
from lib.store.audit import check, repair
from lib.store.findings import Kind
from tests.store.filled import add_image, age, exclude, fill, label_file, open_store


@pytest.fixture
def make_store(tmp_path, ledger_url, monkeypatch):
    """A healthy store with these images."""
    monkeypatch.setattr(audit, "_PAUSE_S", 0.0)  # nobody saves meanwhile
    opened = []

    def make(labelled, open_ones):
        for seed, name in enumerate([*labelled, *open_ones]):
            add_image(tmp_path / "studies", name, seed)
        opened.append(open_store(tmp_path / "studies", ledger_url))
        fill(opened[0], tmp_path / "scratch", labelled, open_ones)
        return opened[0]

    yield make
    opened[0].close()


def write(store, statement):
    with store.ledger.writing() as connection:
        connection.execute(statement)


def version(store, image_id, number=2, tag="final"):
    with store.ledger.reading() as connection:
        return versions.get(connection, image_id, tag, number)


def happened(store, kind):
    with store.ledger.reading() as connection:
        return [event for event in events.history(connection) if event.kind == kind]


def shown(store, image_id, tag="final"):
    return store.layout.shown(image_id, tag)


# --- what can go wrong: each damages one image and says what is to be found -------------------------------------------


def lost_with_a_copy(store, image_id, scratch):
    store.labels.path(version(store, image_id)).unlink()
    return {(Kind.VERSION_LOST, "final")}


def lost(store, image_id, scratch):
    store.labels.path(version(store, image_id, 1)).unlink()
    return {(Kind.VERSION_LOST, "final")}


def lost_and_not_shown(store, image_id, scratch):
    store.labels.path(version(store, image_id)).unlink()
    shown(store, image_id).unlink()
    return {(Kind.VERSION_LOST, "final"), (Kind.LABEL_MISSING, "final")}


def what_was_sent_is_lost(store, image_id, scratch):
    (store.layout.versions / version(store, image_id).sent).unlink()
    return {(Kind.VERSION_LOST, "final")}


def truncated(store, image_id, scratch):
    path = store.labels.path(version(store, image_id))
    path.write_bytes(path.read_bytes()[:-1])
    return {(Kind.VERSION_DAMAGED, "final")}


def one_bit(store, image_id, scratch):
    path = store.labels.path(version(store, image_id, 1))
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    return {(Kind.VERSION_DAMAGED, "final")}


def killed_before_the_row(store, image_id, scratch):
    age(label_file(store.layout.versions / image_id / "final" / "20200101T000000.000000Z-0123456789ab.nii.gz", 5))
    return {(Kind.NO_VERSION, "final")}


def a_row_less(store, image_id, scratch):
    first = version(store, image_id, 1)
    write(store, delete(schema.versions).where(schema.versions.c.id == first.id))
    age(store.labels.path(first))
    return {(Kind.VERSION_NUMBERS, "final"), (Kind.NO_VERSION, "final")}


def points_elsewhere(store, image_id, scratch):
    other = version(store, image_id, 1, "original")
    key = (schema.labels.c.image_id == image_id, schema.labels.c.tag == "final")
    write(store, update(schema.labels).where(*key).values(version_id=other.id))
    return {(Kind.LABEL_ELSEWHERE, "final")}


def removed(store, image_id, scratch):
    shown(store, image_id).unlink()
    return {(Kind.LABEL_MISSING, "final")}


def killed_before_showing(store, image_id, scratch):
    shutil.copyfile(store.labels.path(version(store, image_id, 1)), shown(store, image_id))
    key = (schema.labels.c.image_id == image_id, schema.labels.c.tag == "final")
    write(store, update(schema.labels).where(*key).values(shown_size=None))
    return {(Kind.LABEL_NOT_SHOWN, "final")}


def old_one_put_back(store, image_id, scratch):
    shutil.copyfile(age(store.labels.path(version(store, image_id, 1))), age(shown(store, image_id)))
    return {(Kind.LABEL_OUTDATED, "final")}


def rotten(store, image_id, scratch):
    path = shown(store, image_id)
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return {(Kind.LABEL_DAMAGED, "final")}


def edited(store, image_id, scratch):
    age(label_file(shown(store, image_id), 77))
    return {(Kind.LABEL_FOREIGN, "final")}


def overwritten_with_nonsense(store, image_id, scratch):
    shown(store, image_id).write_bytes(b"nonsense")
    age(shown(store, image_id))
    return {(Kind.LABEL_FOREIGN, "final")}


def another_format(store, image_id, scratch):
    age(label_file(store.layout.shown(image_id, "final", ".nrrd"), 78))
    return {(Kind.LABEL_FORMATS, "final")}


def another_tag(store, image_id, scratch):
    label_file(store.layout.shown(image_id, f"tag_{image_id}"), 79)
    return {(Kind.LABEL_WAITING, f"tag_{image_id}")}


def another_tag_that_does_not_fit(store, image_id, scratch):
    store.layout.shown(image_id, f"tag_{image_id}").parent.mkdir(exist_ok=True)
    store.layout.shown(image_id, f"tag_{image_id}").write_bytes(b"nonsense")
    return {(Kind.LABEL_WAITING, f"tag_{image_id}")}


def image_removed(store, image_id, scratch):
    (store.layout.studies / f"{image_id}.nii.gz").unlink()
    return {(Kind.IMAGE_GONE, None)}


def image_replaced(store, image_id, scratch):
    add_image(store.layout.studies, image_id, 9999)
    age(store.layout.studies / f"{image_id}.nii.gz")
    return {(Kind.IMAGE_CHANGED, None)}


def image_taken_for_gone(store, image_id, scratch):
    age(store.layout.studies / f"{image_id}.nii.gz")
    with store.ledger.writing() as connection:
        leases.free(connection, image_id, actor="test", why="test")
        images.note_vanished(connection, [image_id])
    return {(Kind.IMAGE_BACK, None)}


def wrong_flag(store, image_id, scratch):
    write(store, update(schema.images).where(schema.images.c.image_id == image_id).values(open=~schema.images.c.open))
    return {(Kind.FLAGS, None)}


def lease_over(store, image_id, scratch):
    write(store, delete(schema.leases).where(schema.leases.c.image_id == image_id))
    with store.ledger.writing() as connection:
        leases.acquire(connection, image_id, "x", strategy="review", reason="", score=None, seconds=-1.0)
    return {(Kind.LEASE_EXPIRED, None)}


def lease_of_a_labelled_image(store, image_id, scratch):
    write(store, delete(schema.leases).where(schema.leases.c.image_id == image_id))
    with store.ledger.writing() as connection:
        leases.acquire(connection, image_id, "x", strategy="first", reason="", score=None, seconds=60.0)
        images.exclude(connection, image_id, "blurred", "eve")
    return {(Kind.LEASE_POINTLESS, None)}


def presegmentation_lost(store, image_id, scratch):
    store.labels.keep_presegmentation(image_id, "zoe", "v2", label_file(scratch / "q.nii.gz", 3))
    for path in (store.layout.presegmentations / image_id).iterdir():
        path.unlink()
    return {(Kind.PRESEGMENTATION_LOST, None)}


def presegmentation_left(store, image_id, scratch):
    age(label_file(store.layout.presegmentations / image_id / "old.nii.gz", 4))
    return {(Kind.PRESEGMENTATION_UNKNOWN, None)}


def reason_lost(store, image_id, scratch):
    folder = store.layout.refused(image_id)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    (folder / "other.dcm").write_bytes(b"who knows")
    return {(Kind.REASON_LOST, None)}


def never_finished(store, image_id, scratch):
    folder = store.layout.versions / image_id / "final"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".writing-0-x.nii.gz").write_bytes(b"half a label")
    age(folder / ".writing-0-x.nii.gz")
    return {(Kind.LEFT_OVER, None)}


OF_LABELLED = (
    lost_with_a_copy, lost, lost_and_not_shown, what_was_sent_is_lost, truncated, one_bit, a_row_less, points_elsewhere,
    removed, killed_before_showing, old_one_put_back, rotten, edited, overwritten_with_nonsense, another_format,
)  # fmt: skip
OF_ANY = (
    killed_before_the_row, another_tag, another_tag_that_does_not_fit, image_removed, image_replaced,
    image_taken_for_gone, wrong_flag, lease_over, lease_of_a_labelled_image, presegmentation_lost,
    presegmentation_left, reason_lost, never_finished,
)  # fmt: skip
FOR_A_PERSON = {
    lost, lost_and_not_shown, what_was_sent_is_lost, one_bit, a_row_less, another_tag_that_does_not_fit
}  # fmt: skip


def by_image(findings):
    result = {}
    for finding in findings:
        result.setdefault(finding.image_id, set()).add((finding.kind, finding.tag))
    return result


def contents(store):
    """Hashes of everything that annotators made."""
    return {
        file_sha256(path)
        for folder in (store.layout.versions, store.layout.labels)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".json"
    }


def test_a_healthy_store_has_no_findings(make_store):
    store = make_store(["a", "b", "c"], ["o", "p"])
    exclude(store, "o")
    with store.ledger.writing() as connection:
        leases.free(connection, "o", actor="eve", why="excluded")
        leases.acquire(connection, "c", "ann", strategy="review", reason="", score=None, seconds=60.0)
    store.labels.restore("a", "final", 1, author="ann")
    store.labels.withdraw("a", "original", author="ann")
    age(label_file(store.layout.shown("p", "second", ".nrrd"), 5))  # is shown as it is
    store.rescan()
    age(shown(store, "b"))  # copied, not changed
    seen = []
    assert check(store, seen.append) == []
    assert check(store, deep=False) == []
    assert seen == [5, 5]


def test_each_damage_is_named_and_repaired(make_store, tmp_path):
    names = {damage: damage.__name__ for damage in OF_LABELLED + OF_ANY}
    store = make_store([names[damage] for damage in OF_LABELLED], [names[damage] for damage in OF_ANY])
    expected = {names[damage]: damage(store, names[damage], tmp_path / "scratch") for damage in names}
    before = contents(store)
    findings = check(store)
    assert by_image(findings) == expected
    assert all(finding.explanation and "\n" not in finding.explanation for finding in findings)
    assert all(finding.path is None or not finding.path.startswith("/") for finding in findings)
    done = repair(store, findings)
    left = check(store)
    assert all(finding.repair is None for finding in left), left
    assert {finding.image_id for finding in left} == {names[damage] for damage in FOR_A_PERSON}
    assert sum("remains for a person" in line for line in done) == len(left)
    assert before <= contents(store)
    repair(store, left)
    assert check(store) == left

    kept = happened(store, "file set aside")
    assert {event.image_id for event in kept} >= {"truncated", "killed_before_the_row", "never_finished"}
    assert all((store.layout.studies / event.detail["file"]).is_file() and event.detail["reason"] for event in kept)
    assert [event.image_id for event in happened(store, "label vanished")] == ["lost_and_not_shown"]
    assert version(store, "edited", 3).source == "found"
    reasons = {one.file.rpartition("/")[2]: one.reason for one in refused.listed(store.layout, "reason_lost")}
    assert reasons.pop("other.dcm") == refused.NO_REASON
    assert "not a readable .nii.gz file" in next(iter(reasons.values()))  # as the ledger knows


@pytest.mark.parametrize("seed", range(2))
def test_any_damage_together_is_repaired_without_loss(make_store, tmp_path, seed):
    draw = random.Random(seed)
    labelled, open_ones = [f"a{number}" for number in range(4)], [f"o{number}" for number in range(3)]
    store = make_store(labelled, open_ones)
    log = []
    for image_id in labelled + open_ones:
        for damage in draw.sample(OF_LABELLED + OF_ANY if image_id in labelled else OF_ANY, 3):
            with contextlib.suppress(FileNotFoundError, NotFoundError):  # what an earlier one took away
                damage(store, image_id, tmp_path / "scratch")
            log.append((image_id, damage.__name__))
    before = contents(store)
    repair(store, check(store))
    assert all(finding.repair is None for finding in check(store)), (log, check(store))
    assert before <= contents(store)


def test_what_lies_in_the_folder_alone(make_store):
    store = make_store(["a"], [])
    add_image(store.layout.studies, "new", 50, ".nrrd")
    (store.layout.studies / "new.nrrd").rename(store.layout.studies / "new.NRRD")
    label_file(shown(store, "ghost"), 51)
    age(label_file(store.layout.versions / "nobody" / "final" / "x.nii.gz", 52))
    for path in (store.layout.studies, store.layout.tag("final"), store.layout.ledger):
        (path / ".writing-1-x").write_bytes(b"half")
        age(path / ".writing-1-x")
        (path / ".writing-2-x").write_bytes(b"somebody is still writing")
    findings = check(store)
    assert by_image(findings) == {
        "new": {(Kind.IMAGE_NEW, None)},
        "ghost": {(Kind.LABEL_WAITING, "final")},
        "nobody": {(Kind.NO_VERSION, "final")},
        None: {(Kind.LEFT_OVER, None)},
    }
    repair(store, findings)
    assert {finding.image_id for finding in check(store)} == {"ghost"}  # its image may still come
    assert shown(store, "ghost").is_file()
    assert list(store.layout.refused("nobody").glob("*-final.nii.gz"))
    assert not list(store.layout.studies.rglob(".writing-1-x"))
    assert len(list(store.layout.studies.rglob(".writing-2-x"))) == 3


def test_records_of_an_image_that_the_ledger_does_not_know(make_store):
    store = make_store(["a"], ["o"])
    write(store, delete(schema.images).where(schema.images.c.image_id == "a"))
    assert by_image(check(store)) == {"a": {(Kind.IMAGE_NEW, None)}}
    (store.layout.studies / "a.nii.gz").unlink()
    assert by_image(check(store)) == {"a": {(Kind.IMAGE_UNKNOWN, None)}}


def test_quick_looks_at_sizes_and_times(make_store, tmp_path):
    store = make_store(["a", "b", "c"], [])
    truncated(store, "a", tmp_path)
    rotten(store, "b", tmp_path)
    edited(store, "c", tmp_path)
    assert by_image(check(store, deep=False)) == {
        "a": {(Kind.VERSION_DAMAGED, "final")},
        "c": {(Kind.LABEL_FOREIGN, "final")},
    }


def test_saving_meanwhile_is_no_disagreement(make_store, tmp_path, monkeypatch):
    store = make_store(["a"], ["o"])
    monkeypatch.setattr(audit, "_PAUSE_S", 1.0)
    stop = threading.Event()

    def save(image_id):
        number = 0
        while not stop.is_set():
            number += 1
            path = label_file(tmp_path / image_id / "x.nii.gz", number)
            store.labels.save(image_id, path, "final", author=image_id)

    with ThreadPoolExecutor() as pool:
        savers = [pool.submit(save, image_id) for image_id in ("a", "o")]
        try:
            found = []
            while len(store.labels.history("a")) < 15 and not savers[0].done():
                found += check(store)
        finally:
            stop.set()
    assert [saver.exception() for saver in savers] == [None, None]
    assert found == []


def test_a_finding_that_is_no_longer_true_is_left_alone(make_store, tmp_path):
    store = make_store(["a"], [])
    edited(store, "a", tmp_path)
    findings = check(store)
    store.rescan()
    before = store.labels.history("a")
    assert repair(store, findings) == []
    assert store.labels.history("a") == before
