import random
import shutil

import numpy as np
import pytest
from sqlalchemy import bindparam, event, insert, select, text, update

from lib.case_scores import CaseScores
from lib.store import images, leases, pool, scores
from lib.store.images import FileState
from lib.store.ledger import Ledger
from lib.store.patients import Patients
from lib.store.pool import Candidate
from lib.store.schema import images as images_table
from lib.store.schema import labels as labels_table
from lib.store.schema import rankings as rankings_table
from lib.store.schema import scores as scores_table
from lib.store.schema import versions as versions_table
from lib.store.versions import Version


def register(connection, *names):
    images.register(connection, [(name, FileState(".nii.gz", 1, 1)) for name in names])


def candidates(connection, *chosen, **options):
    return pool.candidates(connection, chosen, **options)


def note(connection, image_id, entropy=0.5, version="v1", *, liver=0.1, tumor=0.1, ml=1.0):
    found = CaseScores(entropy, {"liver": liver, "tumor": tumor}, ml={"liver": ml})
    scores.note(connection, image_id, version, found)


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
def connection(undone):
    return undone


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
    for order in ("name", "turn", "foreground", "highest:entropy", "highest:class:*", "review"):
        assert candidates(connection, order, model_version="v1") == []


def test_by_name_what_was_handed_out_comes_last(connection, open_images):
    assert candidates(connection, "name") == [Candidate("a"), Candidate("b"), Candidate("c")]
    assert names(candidates(connection, "name", limit=2)) == ["a", "b"]
    for name in ("b", "a"):
        give(connection, name)
        leases.free(connection, name, actor="somebody", why="skipped")
    assert names(candidates(connection, "name")) == ["c", "b", "a"]


def test_the_highest_by_one_model_and_behind_them_those_by_others(connection, open_images):
    register(connection, "d", "served")
    for name, score, version in (
        ("a", 0.1, "v1"), ("b", 0.3, "v1"), ("c", 0.9, "v0"), ("d", 0.95, "v3"), ("leased", 1.0, "v1"),
        ("served", 1.0, "v1"), ("excluded", 0.8, "v1"), ("labelled", 0.8, "v1"),
    ):  # fmt: skip
        note(connection, name, score, version)
    give(connection, "served")
    leases.free(connection, "served", actor="somebody", why="skipped")
    found = candidates(connection, "highest:entropy", model_version="v1")
    assert [(one.image_id, one.model_version, one.scores.entropy) for one in found] == [
        ("b", "v1", 0.3), ("a", "v1", 0.1), ("d", "v3", 0.95), ("c", "v0", 0.9),
    ]  # fmt: skip
    assert names(candidates(connection, "highest:entropy", model_version="v1", limit=1)) == ["b"]
    assert names(candidates(connection, "highest:entropy", model_version="v2", limit=3)) == ["d", "c", "b"]
    assert names(candidates(connection, "highest:entropy")) == ["d", "c", "b", "a"]
    assert candidates(connection, "highest:bald", model_version="v1") == []


def test_the_scores_of_another_model_take_the_place_of_those_before(connection):
    register(connection, "a", "b")
    for name in ("a", "b"):
        note(connection, name, 0.5, "v1", liver=0.2 if name == "a" else 0.1)
    note(connection, "a", 0.1, "v2", ml=0.0)
    assert names(candidates(connection, "highest:entropy", model_version="v2", limit=1)) == ["a"]
    assert names(candidates(connection, "highest:entropy", model_version="v1", limit=1)) == ["b"]
    assert names(candidates(connection, "foreground", model_version="v1")) == ["b"]


def test_the_highest_of_each_class(connection):
    register(connection, *"abcdef")
    for place, name in enumerate("abcd"):
        note(connection, name, 0.5, liver=place, tumor=-place)
    assert names(candidates(connection, "highest:class:*", model_version="v1", limit=1)) == ["d", "a"]
    assert names(candidates(connection, "highest:class:tumor", model_version="v1", limit=2)) == ["a", "b"]
    assert candidates(connection, "highest:class:spleen", model_version="v1") == []


def test_many_classes_give_few_candidates_each(connection):
    register(connection, *"abcdefghijkl")
    for place, name in enumerate("abcdefghijkl"):
        organs = {f"organ {number}": place / 10 for number in range(26)}
        scores.note(connection, name, "v1", CaseScores(0.5, organs))
    found = candidates(connection, "highest:class:*", model_version="v1", limit=10)
    assert sorted(names(found)) == list("efghijkl")


def test_an_image_is_found_again_once_it_waits_again(connection):
    register(connection, "a")
    note(connection, "a")
    place = pool.free_place(connection, "a", for_review=False)
    give(connection, "a")
    leases.free(connection, "a", actor="somebody", why="the PACS is down")
    assert candidates(connection, "highest:entropy", "foreground", model_version="v1") == []
    pool.put_back(connection, "a", place)
    images.exclude(connection, "a", "why", "me")
    assert candidates(connection, "highest:entropy", model_version="v1") == []
    images.include(connection, "a", "why", "me")
    assert names(candidates(connection, "highest:entropy", model_version="v1")) == ["a"]
    assert names(candidates(connection, "foreground", model_version="v1")) == ["a"]


def test_at_random_where_a_model_saw_something(connection):
    register(connection, *"abcdef")
    for place, name in enumerate("abcdef"):
        put(connection, name, shuffle=place / 10)
        note(connection, name, ml=float(name != "c"), version="v0" if name == "e" else "v1")
    give(connection, "b")
    drawn = {start: names(candidates(connection, "foreground", model_version="v1", start=start, sample=3))
             for start in (0.0, 0.25, 0.35, 0.95)}  # fmt: skip
    assert drawn == {0.0: list("adf"), 0.25: list("dfa"), 0.35: list("fad"), 0.95: list("adf")}
    every = candidates(connection, "foreground", model_version="v1", start=0.35)
    assert names(every) == list("efad")  # those of another model among them, as v1 has too few
    assert {one.stands_for for one in every} == {1.0}
    assert names(candidates(connection, "foreground", model_version="v9", start=0.15, sample=2)) == list("de")


def test_what_all_stand_for_is_about_the_pool(connection):
    generator = random.Random(0)
    register(connection, *(f"{number:03d}" for number in range(240)))
    places = [{"b_id": f"{number:03d}", "b_place": generator.random()} for number in range(240)]
    here = images_table.c.image_id == bindparam("b_id")
    connection.execute(update(images_table).where(here).values(shuffle=bindparam("b_place")), places)
    for number in range(0, 240, 6):
        note(connection, f"{number:03d}", generator.random(), tumor=generator.random())
    walks = ("highest:entropy", "highest:class:*", "turn")
    chosen = [candidates(connection, *walks, model_version="v1", start=start / 16, limit=8, sample=48)
              for start in range(16)]  # fmt: skip
    assert all(len(set(names(one))) == len(one) < 72 for one in chosen)
    assert all(one.stands_for == 1 for one in chosen[0][:8])
    sums = [sum(one.stands_for for one in found) for found in chosen]
    assert np.mean(sums) == pytest.approx(240, rel=0.06)
    assert np.std(sums) < 48
    every = candidates(connection, *walks, model_version="v1", start=0.5, sample=241)
    assert len(every) == 240
    assert {one.stands_for for one in every} == {1.0}


def test_what_a_candidate_shows(shared_ledger, connection):
    register(connection, "p1_a", "p1_b")
    embedding = np.array([0.6, 0.8], np.float32)
    found = CaseScores(
        0.5, {"liver": 0.25}, 0.125, {"liver": 1500.5}, 3, 7, {"liver": (1.0, 2.0)}, (), ("dark",), embedding
    )
    scores.note(connection, "p1_a", "v1", found)
    patients = Patients.of(shared_ledger, connection, "^(p1)_")
    with_scores, without = candidates(connection, "name", patients=patients)
    assert candidates(connection, "name")[0].patient is None
    seen = with_scores.scores
    assert (seen.entropy, seen.classes, seen.bald, seen.ml) == (0.5, {"liver": 0.25}, 0.125, {"liver": 1500.5})
    assert (seen.lesions, seen.flags, with_scores.model_version) == (3, ("dark",), "v1")
    np.testing.assert_allclose(seen.embedding, embedding, atol=5e-4)
    assert (without.scores, without.model_version, without.last_served) == (None, None, 0.0)
    assert with_scores.patient == without.patient == patients.key("p1", None)


def test_by_turn_from_a_starting_point_and_around(connection, open_images):
    for name, place in (("a", 0.2), ("b", 0.5), ("c", 0.8)):
        put(connection, name, shuffle=place)
    assert names(candidates(connection, "turn")) == ["a", "b", "c"]
    assert names(candidates(connection, "turn", start=0.3)) == ["b", "c", "a"]
    assert names(candidates(connection, "turn", start=0.9)) == ["a", "b", "c"]
    assert names(candidates(connection, "turn", start=0.3, sample=2)) == ["b", "c"]
    put(connection, "leased", served_at=0.0, shuffle=0.4)
    assert names(candidates(connection, "turn", start=0.3, sample=2)) == ["b", "c"]


def test_by_turn_those_that_waited_longest_are_found_from_anywhere(connection):
    register(connection, *(f"{number:02d}" for number in range(20)))
    connection.execute(update(images_table).values(served_at=10.0))
    for name, place in (("05", 0.2), ("15", 0.6)):
        put(connection, name, served_at=0.0, shuffle=place)
    for start, expected in ((0.0, ["05", "15"]), (0.3, ["15", "05"]), (0.7, ["05", "15"])):
        assert names(candidates(connection, "turn", start=start, sample=3)) == expected


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


def test_what_is_free(connection, open_images):
    def free(for_review):
        every = ("a", "b", "c", "excluded", "unfit", "gone", "labelled", "leased", "unknown")
        return [name for name in every if pool.free_place(connection, name, for_review=for_review)]

    assert free(for_review=False) == ["a", "b", "c"]
    assert free(for_review=True) == ["labelled"]
    give(connection, "b")
    give(connection, "labelled", strategy="review")
    assert free(for_review=False) == ["a", "c"]
    assert free(for_review=True) == []
    assert images.count_labelled(connection) == 1


def test_whose_hands_they_are_in(connection, open_images):
    review = give(connection, "labelled", strategy="review")
    lease = leases.of_image(connection, "leased")
    register(connection, "d")
    other = give(connection, "d")
    images.exclude(connection, "d", "why", "me")
    assert pool.in_hands(connection, for_review=False) == [lease]
    assert pool.in_hands(connection, for_review=True) == [review]
    assert other in leases.list_all(connection)


def note_many(connection, first, last):
    """Scores of many at once: of v1, but for 1 in 100."""
    shuffles = dict(connection.execute(select(images_table.c.image_id, images_table.c.shuffle)).tuples().all())
    rows, entries = [], []
    for number in range(first, last):
        name = f"{number:05d}"
        version = "v0" if number % 100 == 99 else "v1"
        figures = CaseScores(0.5, {"liver": 0.5, "tumor": 0.5}).figures()
        known = {"image_id": name, "model_version": version}
        rows.append({**known, "scored_at": float(number), "figures": figures, "profile": {}, "open": True})
        kinds = ("entropy", "class:liver", "class:tumor", "foreground")
        entries += [{**known, "kind": kind, "value": shuffles[name], "fresh": True} for kind in kinds]
    connection.execute(insert(scores_table), rows)
    connection.execute(insert(rankings_table), entries)
    connection.execute(update(images_table).where(images_table.c.image_id >= f"{first:05d}").values(scored=True))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """3,000 images, of which 40 are leased and 100 labelled; as an SQLite ledger."""
    path = tmp_path_factory.mktemp("many") / "many.sqlite"
    ledger = Ledger(f"sqlite:///{path}")
    with ledger.writing() as connection:
        register(connection, *(f"{number:05d}" for number in range(3000)))
        note_many(connection, 10, 3000)
        for number in range(40):
            give(connection, f"{number:05d}")
        for number in range(100, 200):
            save_final(connection, f"{number:05d}", number / 1000)
    ledger.close()
    return path


@pytest.fixture
def many(filled, tmp_path):
    ledger = Ledger(f"sqlite:///{shutil.copy(filled, tmp_path)}")
    yield ledger
    ledger.close()


WALKS = {
    "name": "pool_by_name",
    "turn": "pool_by_turn",
    "review": "pool_for_review",
    "highest:entropy": "rankings_by_value",
    "highest:class:*": "rankings_by_value",
    "foreground": "rankings_by_value",
}


def plans(ledger, action):
    """The steps by which SQLite does what an action asks for."""
    statements = []

    def keep(*given):
        statements.append(given[2:4])

    event.listen(ledger.engine, "before_cursor_execute", keep)
    with ledger.reading() as connection:
        action(connection)
        event.remove(ledger.engine, "before_cursor_execute", keep)
        return [
            row.detail
            for sql, values in statements
            if sql.startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
        ]


@pytest.mark.parametrize("walk", WALKS)
def test_every_walk_follows_an_index(many, walk):
    def choose(connection):
        assert len(candidates(connection, walk, model_version="v1", start=0.99, limit=50, sample=50)) >= 50

    steps = plans(many, choose)
    assert all("INDEX" in step or "PRIMARY KEY" in step for step in steps), steps  # neither a whole table nor sorted
    assert any(f"INDEX {WALKS[walk]}" in step for step in steps)
    by_key = (
        "SEARCH images USING INDEX sqlite_autoindex_images_1",
        "SEARCH scores USING INDEX sqlite_autoindex_scores_1",
    )
    others = [step for step in steps if WALKS[walk] not in step and not step.startswith(by_key)]
    assert all(" leases " in step or " labels " in step or " versions " in step for step in others), others
    # From their start on, and no further than the limit.
    whole = {
        "name": ["SCAN images USING INDEX pool_by_name"],
        "turn": ["SCAN images USING COVERING INDEX pool_by_turn"],
    }
    assert [step for step in steps if step.startswith("SCAN") and " leases " not in step] == whole.get(walk, [])


def test_what_is_to_be_scored_is_found_by_indexes(many):
    for fetched in (False, True):
        steps = plans(many, lambda connection, fetched=fetched: scores.waiting(connection, "v1", 20, fetched=fetched))
        walks = [step for step in steps if "sqlite_autoindex_images_1" not in step]
        assert all("pool_not_scored" in step or "COVERING INDEX scores_by_version" in step for step in walks), steps
    with many.reading() as connection:
        assert scores.waiting(connection, "v1", 12)[8:] == ["00008", "00009", "00099", "00299"]


def test_a_choice_costs_the_same_at_any_size(many):
    """Counted in steps of SQLite's machine, which do not depend on how busy this one is."""

    def steps(action):
        counted = []
        with many.reading() as connection:
            raw = connection.connection.driver_connection
            raw.set_progress_handler(lambda: counted.append(1), 10)
            action(connection)
            raw.set_progress_handler(None, 0)
        return len(counted) * 10

    actions = {
        walk: lambda connection, walk=walk: candidates(connection, walk, model_version="v1", start=0.5, sample=64)
        for walk in WALKS
    } | {
        "waiting": lambda connection: scores.waiting(connection, "v1", 32),
        "known": lambda connection: scores.embeddings_of_known(connection, 3, 64),
        "last": lambda connection: leases.last_handed_out(connection),
    }
    before = {name: steps(action) for name, action in actions.items()}
    with many.writing() as connection:
        register(connection, *(f"{number:05d}" for number in range(3000, 9000)))
        note_many(connection, 3000, 9000)
        connection.execute(text("ANALYZE"))
    for name, number in before.items():
        assert steps(actions[name]) < 1.3 * number + 100, name
