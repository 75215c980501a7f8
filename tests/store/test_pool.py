import random

import pytest
from sqlalchemy import event, insert, text, update

from lib.store import images, leases, pool
from lib.store.images import FileState
from lib.store.ledger import Ledger
from lib.store.pool import Candidate, candidates
from lib.store.schema import images as images_table
from lib.store.schema import labels as labels_table
from lib.store.schema import versions as versions_table
from lib.store.versions import Version


def register(connection, *names):
    images.register(connection, [(name, FileState(".nii.gz", 1, 1)) for name in names])


def give(connection, image_id, client_id="somebody", strategy="random"):
    return leases.acquire(connection, image_id, client_id, strategy=strategy, reason="", score=None, seconds=60)


def put(connection, image_id, **values):
    connection.execute(update(images_table).where(images_table.c.image_id == image_id).values(values))


def save_final(connection, image_id, change=None, author="anna", source="client"):
    """As much of saving a final label as the pool sees."""
    row = {
        "image_id": image_id, "tag": "final", "number": random.getrandbits(30), "file": str(random.random()),
        "size": 1, "sha256": "", "sent": None, "author": author, "source": source, "saved_at": 1.0,
        "seconds_since_lease": None, "model_version": None, "restored_from": None, "voxels": None, "ml": None,
        "against_presegmentation": None, "against_previous": None, "change": change, "info": {},
    }  # fmt: skip
    key = connection.execute(insert(versions_table).values(row)).inserted_primary_key[0]
    row_of_label = (labels_table.c.image_id == image_id, labels_table.c.tag == "final")
    if not connection.execute(update(labels_table).where(*row_of_label).values(version_id=key)).rowcount:
        label = {"image_id": image_id, "tag": "final", "suffix": ".nii.gz", "version_id": key}
        connection.execute(insert(labels_table).values(label))
    pool.note_final(connection, Version(id=key, **row))
    leases.free(connection, image_id, actor=author, why="saved")
    images.reckon(connection, [image_id])


def names(found):
    return [candidate.image_id for candidate in found]


@pytest.fixture
def connection(ledger):
    with ledger.writing() as connection:
        yield connection


@pytest.fixture
def open_images(connection):
    register(connection, "c", "a", "b", "excluded", "unfit", "gone", "labelled", "leased")
    images.exclude(connection, "excluded", "test set", "me")
    images.note_problem(connection, "unfit", "no CT")
    images.note_vanished(connection, ["gone"])
    save_final(connection, "labelled", 0.5)
    give(connection, "leased")


@pytest.mark.parametrize("order", ["name", "turn"])
def test_only_what_waits_and_nobody_has(connection, open_images, order):
    assert sorted(names(candidates(connection, order))) == ["a", "b", "c"]


def test_nothing_to_hand_out(connection):
    for order in ("name", "turn", "score", "review"):
        assert candidates(connection, order, model_version="v1") == []


def test_by_name_what_was_handed_out_comes_last(connection, open_images):
    assert candidates(connection, "name") == [Candidate("a"), Candidate("b"), Candidate("c")]
    assert names(candidates(connection, "name", limit=2)) == ["a", "b"]
    for name in ("b", "a"):
        give(connection, name)
        leases.free(connection, name, actor="somebody", why="skipped")
    assert names(candidates(connection, "name")) == ["c", "b", "a"]


def test_by_score_of_one_model_version(connection, open_images):
    for name, score, version in (("a", 0.1, "v1"), ("b", 0.3, "v1"), ("c", 0.9, "v0"), ("leased", 1.0, "v1")):
        images.note_score(connection, name, score, version)
    images.note_score(connection, "excluded", 0.8, "v1")
    assert candidates(connection, "score", model_version="v1") == [Candidate("b", 0.3), Candidate("a", 0.1)]
    assert candidates(connection, "score", model_version="v2") == []
    assert candidates(connection, "name", model_version="v1") == [
        Candidate("a", 0.1), Candidate("b", 0.3), Candidate("c"),
    ]  # fmt: skip


def test_by_turn_from_a_starting_point_and_around(connection, open_images):
    for name, place in (("a", 0.2), ("b", 0.5), ("c", 0.8)):
        put(connection, name, shuffle=place)
    assert names(candidates(connection, "turn")) == ["a", "b", "c"]
    assert names(candidates(connection, "turn", start=0.3)) == ["b", "c", "a"]
    assert names(candidates(connection, "turn", start=0.9)) == ["a", "b", "c"]
    assert names(candidates(connection, "turn", start=0.3, limit=2)) == ["b", "c"]
    put(connection, "leased", served_at=0.0, shuffle=0.4)
    assert names(candidates(connection, "turn", start=0.3, limit=2)) == ["b", "c"]


def test_by_turn_those_that_waited_longest_are_found_from_anywhere(connection):
    register(connection, *(f"{number:02d}" for number in range(20)))
    connection.execute(update(images_table).values(served_at=10.0))
    for name, place in (("05", 0.2), ("15", 0.6)):
        put(connection, name, served_at=0.0, shuffle=place)
    for start, expected in ((0.0, ["05", "15"]), (0.3, ["15", "05"]), (0.7, ["05", "15"])):
        assert names(candidates(connection, "turn", start=start, limit=3)) == expected


def test_by_turn_what_was_handed_out_comes_back_last_and_oldest_first(connection, open_images):
    for name, at in (("a", 20.0), ("b", 10.0)):
        put(connection, name, served_at=at)
    assert candidates(connection, "turn") == [Candidate("c")]
    put(connection, "c", served_at=30.0)
    assert candidates(connection, "turn") == [Candidate("b", None, 10.0)]


def test_for_review_the_most_changed_first(connection, open_images):
    register(connection, "best", "worst", "unknown", "left out")
    save_final(connection, "best", 0.05)
    save_final(connection, "worst", 0.9)
    save_final(connection, "unknown")
    save_final(connection, "left out", 1.0)
    images.exclude(connection, "left out", "why", "me")
    assert candidates(connection, "review") == [
        Candidate("worst", 0.9), Candidate("labelled", 0.5), Candidate("best", 0.05), Candidate("unknown"),
    ]  # fmt: skip
    give(connection, "worst", strategy="review")
    assert names(candidates(connection, "review", limit=1)) == ["labelled"]


def test_for_review_what_was_handed_out_comes_back_last(connection):
    register(connection, "a", "b", "c")
    for name in ("a", "b", "c"):
        save_final(connection, name, 0.5)
    for name in ("b", "a"):
        given = give(connection, name, strategy="review")
        leases.free(connection, name, actor="somebody", why="skipped")
    found = candidates(connection, "review")
    assert names(found) == ["c", "b", "a"]
    assert [candidate.score for candidate in found] == [0.5] * 3
    assert (found[0].last_served, found[2].last_served) == (0.0, given.acquired_at)


def test_reviewed_is_reviewed_until_somebody_changes_the_label(connection):
    register(connection, "a")
    save_final(connection, "a", 0.5)
    give(connection, "a", "bob", "review")
    save_final(connection, "a", 0.6, author="bob")
    assert candidates(connection, "review") == []
    save_final(connection, "a", 0.6, author="server", source="remapped")  # the classes were numbered anew
    assert candidates(connection, "review") == []
    save_final(connection, "a", 0.7, author="anna")
    assert candidates(connection, "review") == [Candidate("a", 0.7)]


def test_what_another_saves_during_a_review_is_to_be_reviewed(connection):
    register(connection, "a")
    save_final(connection, "a", 0.5)
    give(connection, "a", "bob", "review")
    save_final(connection, "a", 0.6, author="anna")
    assert candidates(connection, "review") == [Candidate("a", 0.6)]


def test_a_withdrawn_label_is_not_reviewed(connection):
    register(connection, "a")
    save_final(connection, "a", 0.5)
    connection.execute(labels_table.delete())
    images.reckon(connection, ["a"])
    assert candidates(connection, "review") == []
    assert names(candidates(connection, "name")) == ["a"]


def test_what_can_be_kept(connection, open_images):
    lease, review = give(connection, "a"), give(connection, "labelled", strategy="review")
    assert pool.can_keep(connection, lease)
    assert pool.can_keep(connection, review)
    for name in ("a", "labelled"):
        images.exclude(connection, name, "why", "me")
    assert not pool.can_keep(connection, lease)
    assert not pool.can_keep(connection, review)


def test_whose_hands_they_are_in(connection, open_images):
    review = give(connection, "labelled", strategy="review")
    lease = leases.of_image(connection, "leased")
    register(connection, "d")
    other = give(connection, "d")
    images.exclude(connection, "d", "why", "me")
    assert pool.in_hands(connection, for_review=False) == [lease]
    assert pool.in_hands(connection, for_review=True) == [review]
    assert other in leases.list_all(connection)


def test_what_a_model_has_not_scored_page_by_page(connection, open_images):
    images.note_score(connection, "b", 0.5, "v1")
    assert pool.not_scored(connection, "v1") == ["a", "c", "leased"]
    assert pool.not_scored(connection, "v1", limit=2) == ["a", "c"]
    assert pool.not_scored(connection, "v1", after="c") == ["leased"]
    assert pool.not_scored(connection, "v2") == ["a", "b", "c", "leased"]


@pytest.fixture
def many(tmp_path):
    """3,000 images, of which 40 are leased and 500 labelled; as an SQLite ledger."""
    ledger = Ledger(f"sqlite:///{tmp_path}/many.sqlite")
    with ledger.writing() as connection:
        register(connection, *(f"{number:05d}" for number in range(3000)))
        for number in range(40):
            give(connection, f"{number:05d}")
        for number in range(100, 600):
            save_final(connection, f"{number:05d}", number / 1000)
        connection.execute(update(images_table).where(images_table.c.image_id >= "01000").values(score_version="v1"))
        connection.execute(update(images_table).values(score=images_table.c.shuffle))
    yield ledger
    ledger.close()


WALKS = {"name": "pool_by_name", "turn": "pool_by_turn", "score": "pool_by_score", "review": "pool_for_review"}


@pytest.mark.parametrize("order", WALKS)
def test_every_walk_follows_an_index(many, order):
    statements = []
    event.listen(many.engine, "before_cursor_execute", lambda *given: statements.append(given[2:4]))
    with many.reading() as connection:
        assert len(candidates(connection, order, model_version="v1", start=0.99)) == pool.ENOUGH
        plans = [
            [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
            for sql, values in list(statements)
            if sql.startswith("SELECT")
        ]
    steps = [step for plan in plans for step in plan]
    assert all("INDEX" in step or "PRIMARY KEY" in step for step in steps), steps  # neither a whole table nor sorted
    walks = [step for step in steps if " images " in step]
    assert walks
    assert all(f"INDEX {WALKS[order]}" in step for step in walks), steps
    assert [step for step in steps if step.startswith("SCAN") and " leases " not in step] == (
        ["SCAN images USING COVERING INDEX pool_by_turn"]
        if order == "turn"
        else ["SCAN images USING INDEX pool_by_name"]
        if order == "name"
        else []
    )  # from their start on, and no further than the limit


def test_a_choice_costs_the_same_at_any_size(many, tmp_path):
    """Counted in steps of SQLite's machine, which do not depend on how busy this one is."""

    def steps(ledger, order):
        counted = []
        with ledger.reading() as connection:
            raw = connection.connection.driver_connection
            raw.set_progress_handler(lambda: counted.append(1), 10)
            candidates(connection, order, model_version="v1", start=0.5)
            raw.set_progress_handler(None, 0)
        return len(counted) * 10

    before = {order: steps(many, order) for order in ("name", "turn", "score", "review")}
    with many.writing() as connection:
        register(connection, *(f"{number:05d}" for number in range(3000, 13000)))
        connection.execute(update(images_table).values(score=images_table.c.shuffle))
        connection.execute(update(images_table).where(images_table.c.image_id >= "01000").values(score_version="v1"))
        connection.execute(text("ANALYZE"))
    for order, number in before.items():
        assert steps(many, order) < 1.3 * number + 100, order
