"""Rows about SEGs, on both databases."""

import time

import pytest
from sqlalchemy import delete, insert

from lib.store import schema, segs
from lib.store.events import history
from lib.store.versions import Version

INFO = {"label_info": []}


@pytest.fixture
def add(ledger):
    """Add a version and show it."""

    def add(image_id="1.2", tag="final", source="client", number=1, shown=True):
        row = {
            "image_id": image_id, "tag": tag, "number": number, "file": f"{image_id}/{tag}/{number}.nii.gz", "size": 1,
            "sha256": "0" * 64, "author": "ann", "source": source, "saved_at": 1.0, "info": INFO,
        }  # fmt: skip
        with ledger.writing() as connection:
            key = connection.execute(insert(schema.versions).values(row)).inserted_primary_key[0]
            here = (schema.labels.c.image_id == image_id, schema.labels.c.tag == tag)
            connection.execute(delete(schema.labels).where(*here))
            if shown:
                values = {"image_id": image_id, "tag": tag, "suffix": ".nii.gz", "version_id": key}
                connection.execute(insert(schema.labels).values(values))
            nothing = dict.fromkeys(Version.__dataclass_fields__)
            return Version(**{**nothing, **row, "id": key})

    return add


def unsent(ledger, after=0):
    with ledger.reading() as connection:
        return segs.unsent(connection, after)


def test_what_is_to_be_sent(ledger, add):
    first = add()
    add(tag="original", source="model")
    for source in ("pacs", "model", "found", "adopted", "remapped"):
        add(f"of {source}", source=source)
    restored = add(number=2, source="restored")
    withdrawn = add("2.3", shown=False)
    assert [(one.version_id, one.withdrawn) for one in unsent(ledger)] == [
        (first.id, False), (restored.id, False), (withdrawn.id, True),
    ]  # fmt: skip
    assert [one.version_id for one in unsent(ledger, first.id)] == [restored.id, withdrawn.id]
    with ledger.reading() as connection:
        assert [one.number for one in segs.versions_with(connection, [restored.id, first.id])] == [1, 2]


def test_what_was_sent_is_sent_for_good(ledger, add):
    version = add()
    with ledger.writing() as connection:
        assert segs.note_refused(connection, version, "no room", 60, 5)
        assert not segs.note_refused(connection, version, "no room", 60, 5)
        assert segs.note_refused(connection, version, "no right", 60, 5)
        row = segs.known(connection, [segs.uids_of(version)[1]])[segs.uids_of(version)[1]]
    assert (row.problem, row.attempts, row.version_id) == ("no right", 3, version.id)
    assert row.next_try_at > time.time() + 1000
    assert len(unsent(ledger)) == 1
    with ledger.writing() as connection:
        assert segs.note_sent(connection, version)
        assert not segs.note_sent(connection, version)
        assert not segs.note_refused(connection, version, "it is there", 60, 5)  # by another server
    assert unsent(ledger) == []


def test_a_seg_becomes_one_version(ledger, add):
    version, other = add(source="pacs"), add(source="pacs", number=2)
    with ledger.writing() as connection:
        assert not segs.note_not_taken_in(connection, "7", "8", "1.2", None, 0.0)  # it waits: nothing to tell
        assert segs.note_taken_in(connection, "7", "8", version)
        assert not segs.note_taken_in(connection, "7", "8", other)
        assert not segs.note_not_taken_in(connection, "7", "8", "1.2", "late", None)
        assert segs.of_series(connection, ["8"])["7"].version_id == version.id


def test_a_problem_is_told_when_it_is_another(ledger):
    with ledger.writing() as connection:
        assert segs.note_not_taken_in(connection, "7", "8", "", "strange", 1.0)
        assert not segs.note_not_taken_in(connection, "7", "8", "", "strange", 1.0)
        assert segs.note_not_taken_in(connection, "7", "8", "1.2", "stranger", None)
        assert not segs.note_not_taken_in(connection, "7", "8", "1.2", "again", None)  # done with
        told = history(connection, kind="SEG not taken in")
    assert [event.detail["reason"] for event in told] == ["stranger", "strange"]


def test_how_things_stand(ledger, add):
    def status():
        with ledger.reading() as connection:
            return segs.status(ledger, connection)

    assert status() is None
    segs.note_pacs(ledger, "pacs:80")
    sent, refused, found = add(), add("2"), add("3", source="pacs")
    add("4")
    with ledger.writing() as connection:
        segs.note_sent(connection, sent)
        segs.note_refused(connection, refused, "no right", 60, 5)
        segs.note_taken_in(connection, "7", "8", found)
        segs.note_not_taken_in(connection, "9", "8", "3", None, 5.0)  # waits for its image: no problem
    assert [segs.note_reachable(ledger, text) for text in (None, "down", "down")] == [False, True, False]
    assert status() == {
        "pacs": "pacs:80", "sent": 1, "taken_in": 1, "not_taken_in": 0, "waiting": 2, "refused": 1,
        "unreachable": "down", "last_error": "no right",
    }  # fmt: skip
    assert segs.status_text(status()) == (
        "1 labels stored, 2 waiting (1 refused so far); 1 SEGs taken in, 0 not usable; not reachable: down"
    )
    assert segs.note_reachable(ledger, None)
    assert segs.status_text(status()).endswith("not usable; last problem: no right")


def test_what_can_not_be_used_yet_is_looked_at_more_and_more_rarely(ledger):
    waits = []
    for _ in range(7):
        with ledger.writing() as connection:
            segs.note_not_taken_in(connection, "7", "8", "1.2", "not here", 3600.0)
            row = segs.known(connection, ["7"])["7"]
            waits.append(round((row.next_try_at - row.at) / 3600))
    assert waits == [1, 4, 16, 64, 256, 720, 720]
