import multiprocessing
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import insert, update

from lib.activelearning import next_image
from lib.activelearning.strategies import STRATEGIES
from lib.case_scores import CaseScores, Span
from lib.errors import BusyError, UnavailableError
from lib.settings import Settings
from lib.store import images, leases, pool, scores
from lib.store.events import history
from lib.store.schema import images as images_table
from lib.store.schema import labels, versions
from lib.store.schema import leases as leases_table
from tests.activelearning.conftest import Studies
from tests.store.conftest import ledger_url  # noqa: F401 - fixtures

CLIENTS = [f"client {number}" for number in range(40)]


def events(studies, kind):
    with studies.ledger.reading() as connection:
        return [event for event in history(connection, limit=1000) if event.kind == kind]


def holders(studies):
    with studies.ledger.reading() as connection:
        return {lease.image_id: lease.client_id for lease in leases.list_all(connection)}


def save_final(connection, image_id, change):
    """As much of a saved final label as handing out sees."""
    row = {
        "image_id": image_id, "tag": "final", "number": 1, "file": image_id, "size": 1, "sha256": "", "author": "x",
        "source": "client", "saved_at": 1.0, "change": change, "info": {},
    }  # fmt: skip
    key = connection.execute(insert(versions).values(row)).inserted_primary_key[0]
    connection.execute(insert(labels).values(image_id=image_id, tag="final", suffix=".nii.gz", version_id=key))
    connection.execute(update(images_table).where(images_table.c.image_id == image_id).values(to_review=change))
    images.reckon(connection, [image_id])


def score_as(studies, image_id, entropy, version, **others):
    """As much of scores as a choice looks at."""
    found = CaseScores(entropy=entropy, **({"classes": {"tumor": entropy / 2}} | others))
    with studies.ledger.writing() as connection:
        scores.note(connection, image_id, version, found)


def end_time_of(studies, image_id):
    with studies.ledger.writing() as connection:
        query = update(leases_table).where(leases_table.c.image_id == image_id)
        connection.execute(query.values(expires_at=leases_table.c.acquired_at - 1))


def test_the_lease_says_who_why_and_for_how_long(studies):
    studies.register("b", "a")
    lease = studies.ask("anna")
    assert (lease.image_id, lease.client_id, lease.strategy) == ("a", "anna", "first")
    assert lease.reason == "first unlabelled image by name"
    assert lease.expires_at - lease.acquired_at == pytest.approx(60 * studies.settings.store.lease_minutes)


def test_who_asks_again_gets_the_same_renewed(studies):
    studies.register("a", "b")
    first = studies.ask("anna")
    again = studies.ask("anna")
    assert (again.image_id, again.acquired_at) == (first.image_id, first.acquired_at)
    assert again.expires_at > first.expires_at
    assert studies.ask("bob").image_id == "b"
    assert len(events(studies, "image handed out")) == 2


def test_one_lease_for_each_strategy(studies):
    studies.register("a", "b", "c")
    assert studies.ask("anna", "first").image_id == "a"
    assert studies.ask("anna", "entropy").image_id in {"b", "c"}
    assert studies.ask("anna", "first").image_id == "a"


def test_a_skipped_image_comes_back_last(studies):
    studies.register("a", "b", "c")
    order = [studies.ask("anna").image_id]
    order += [studies.ask("anna", skip=True).image_id for _ in range(4)]
    assert order == ["a", "b", "c", "a", "b"]
    assert [(event.image_id, event.actor) for event in events(studies, "image skipped")] == [
        (name, "anna") for name in "acba"
    ]
    assert holders(studies) == {"b": "anna"}


@pytest.mark.parametrize("strategy", ["random", "first", "entropy"])
def test_no_strategy_brings_a_skipped_image_back_before_the_others(studies, strategy):
    studies.register(*"abcdef")
    for score, name in enumerate("abc", 1):
        score_as(studies, name, score, "v1")
    order = [studies.ask("anna", strategy, skip=True).image_id for _ in range(6)]
    assert sorted(order) == list("abcdef")
    if strategy == "entropy":
        assert order[:3] == ["c", "b", "a"]
    assert studies.ask("anna", strategy, skip=True).image_id == order[0]


def test_why_an_image_is_skipped_is_noted(studies):
    studies.register("a", "b", "c")
    assert studies.ask("anna", skip="nothing to skip yet").image_id == "a"
    assert studies.ask("anna", skip="arms down").image_id == "b"
    assert studies.ask("anna", skip=True).image_id == "c"
    assert [(event.image_id, event.detail["why"]) for event in events(studies, "image skipped")] == [
        ("b", "asked for another"),
        ("a", "arms down"),
    ]


def test_the_only_image_can_be_skipped_and_comes_back(studies):
    studies.register("a")
    studies.ask("anna")
    again = studies.ask("anna", skip=True)
    assert again.image_id == "a"
    assert again.reason == "handed out before and not labelled since, and no image is left that was not"


def test_nothing_left(studies):
    for strategy in ("random", "first", "entropy", "review"):
        assert studies.ask("anna", strategy) is None


def test_an_expired_lease_goes_to_who_asks_next(studies):
    studies.register("a")
    studies.ask("anna")
    end_time_of(studies, "a")
    assert studies.ask("bob").image_id == "a"
    assert len(events(studies, "lease expired")) == 1
    with pytest.raises(BusyError):
        studies.ask("anna")


def test_who_comes_back_late_goes_on_where_nobody_else_asked(studies):
    studies.register("a", "b")
    first = studies.ask("anna")
    end_time_of(studies, "a")
    assert studies.ask("anna").acquired_at == first.acquired_at
    assert events(studies, "lease expired") == []


def test_an_image_that_no_longer_waits_is_not_kept(studies):
    studies.register("a", "b")
    studies.ask("anna")
    with studies.ledger.writing() as connection:
        images.exclude(connection, "a", "scanner fault", "bob")
    assert studies.ask("anna").image_id == "b"
    assert holders(studies) == {"b": "anna"}


def test_an_unfit_image_is_passed_over(studies, problems):
    studies.register("a", "b", "c")
    problems.update(a="the file is empty", b="no CT")
    assert studies.ask("anna").image_id == "c"
    assert holders(studies) == {"c": "anna"}
    assert [event.detail["why"] for event in events(studies, "lease freed")] == [
        "it can't be used: no CT", "it can't be used: the file is empty",
    ]  # fmt: skip
    problems["c"] = "the file is gone"
    assert studies.ask("anna") is None


def test_a_folder_of_unfit_images_ends_with_the_reason(studies, problems):
    names = [f"{number:03d}" for number in range(next_image._MOST_TRIES + 1)]
    studies.register(*names)
    problems.update(dict.fromkeys(names, "the file is empty"))
    with pytest.raises(UnavailableError) as caught:
        studies.ask("anna")
    assert str(caught.value) == (
        "32 images in a row can't be used (the last: the file is empty); check the studies folder, or ask again"
    )
    assert studies.ask("anna") is None  # those are known now
    assert holders(studies) == {}


def test_who_has_the_images_that_are_left(studies):
    studies.register(*"abcde")
    for client in "vwxyz":
        studies.ask(client)
    with pytest.raises(BusyError) as caught:
        studies.ask("late")
    times = r"\d\d:\d\d UTC"
    assert re.fullmatch(
        rf"all 5 images that are left are with 5 other annotators: v \(until {times}\), w \(until {times}\), "
        rf"x \(until {times}\) and 2 more; ask again later",
        str(caught.value),
    )


def test_one_other_has_the_last_image(studies):
    studies.register("a")
    studies.ask("anna")
    with studies.ledger.writing() as connection:
        connection.execute(update(leases_table).values(expires_at=4_000_000_000.0))
    with pytest.raises(BusyError) as caught:
        studies.ask("bob")
    assert str(caught.value) == (
        "the last image that is left is with 1 other annotator: anna (until 07:06 UTC); ask again later"
    )


def test_where_no_image_is_free_a_client_gets_what_it_has_by_another_strategy(studies):
    studies.register("a", "b")
    studies.ask("anna", "first")
    studies.ask("bob", "first")
    assert studies.ask("anna", "random").image_id == "a"
    assert holders(studies) == {"a": "anna", "b": "bob"}


def test_scores_of_the_model_in_force_come_first_then_those_of_others(studies):
    studies.register("a", "b", "c", "d")
    score_as(studies, "b", 0.2, "v1")
    score_as(studies, "c", 0.1, "v1")
    score_as(studies, "a", 0.9, "v0")
    leases_ = [studies.ask(client, "entropy") for client in ("anna", "bob", "carl")]
    assert [(lease.image_id, lease.score, lease.part) for lease in leases_] == [
        ("b", 0.2, "entropy"), ("c", 0.1, "entropy"), ("a", 0.9, "entropy"),
    ]  # fmt: skip
    assert leases_[0].reason.startswith("the highest uncertainty (mean entropy 0.2) of the images scored")
    assert "scored by an earlier model" in leases_[2].reason
    last = studies.ask("dora", "entropy")
    assert (last.image_id, last.score) == ("d", None)
    assert last.reason == "drawn at random: none has scores of the current model yet"


def test_the_lease_keeps_why_and_where_to_look_whatever_is_scored_later(studies):
    studies.register("a", "b")
    spans = (Span("tumor", 41, 48, 0.5), Span("liver", 90, 95, 0.3), Span("tumor", 60, 63, 0.2))
    score_as(studies, "a", 0.5, "v1", spans=spans, lesions=2, ml={"tumor": 3.0})
    first = studies.ask("anna", "entropy")
    assert first.slices == spans
    assert first.reason == (
        "the highest uncertainty (mean entropy 0.5) of the images scored; tumor border uncertain on slices "
        "41-48 and 60-63, perhaps liver on slices 90-95, two lesion candidates"
    )
    score_as(studies, "a", 0.1, "v2", spans=spans[1:2])
    again = studies.ask("anna", "entropy", model_version="v2")
    assert (again.image_id, again.reason, again.score, again.slices) == ("a", first.reason, 0.5, spans)


def test_parts_of_a_strategy_are_counted(studies, problems):
    names = [f"{number:02d}" for number in range(16)]
    studies.register(*names)
    for number, name in enumerate(names):
        score_as(studies, name, 0.1 + number / 100, "v1", classes={"liver": 0.3, "tumor": 0.1})
    problems.update(dict.fromkeys(names[::4], "no CT"))  # put back, so that their choices don't count
    given = [studies.ask("anna", "class_balanced", skip=True).part for _ in range(12)]
    assert {part: given.count(part) for part in given} == {"class:liver": 4, "class:tumor": 4, "entropy": 4}


def test_progress_of_the_campaign_reaches_the_strategy(studies, monkeypatch):
    studies.register("a", "b", "c")
    studies.settings = Settings.model_validate({"active_learning": {"planned_labels": 4}})
    with studies.ledger.writing() as connection:
        save_final(connection, "a", 0.3)
    seen = []
    random = STRATEGIES["random"]

    def rank(candidates, history, rng):
        seen.append(history)
        return random.rank(candidates, history, rng)

    monkeypatch.setattr(next_image, "STRATEGIES", {"random": replace(random, rank=rank)})
    studies.ask("anna", "random")
    score_as(studies, "b", 0.1, "v1", embedding=np.array([0.6, 0.8], np.float32))
    score_as(studies, "c", 0.1, "v1", embedding=np.array([1.0, 0.0], np.float32))
    studies.ask("bob", "random")
    assert [(one.labelled, one.planned, one.progress, one.model_version) for one in seen] == [(1, 4, 0.25, "v1")] * 2
    assert (dict(seen[0].picked), dict(seen[1].picked)) == ({}, {"random": 1})
    assert seen[0].embeddings.size == 0
    assert seen[1].embeddings.shape == (1, 2)  # of the one in hands


def test_patients_take_turns(studies):
    studies.settings = Settings.model_validate({"training": {"patient_pattern": "^(p[0-9]+)_"}})
    studies.register("p1_a", "p1_b", "p1_c", "p2_a", "p3_a")
    given = [studies.ask(client) for client in "vwxyz"]
    assert [lease.image_id for lease in given] == ["p1_a", "p2_a", "p3_a", "p1_b", "p1_c"]
    passed = "those ranked higher are of patients just handed out"
    assert [lease.reason.partition("; ")[2] for lease in given] == ["", passed, passed, "", ""]


def test_a_skipped_image_does_not_come_before_others_of_the_same_patient(studies):
    studies.settings = Settings.model_validate({"training": {"patient_pattern": "^(p[0-9]+)_"}})
    studies.register("p1_a", "p1_b", "p2_a")
    assert [studies.ask("anna", skip=True).image_id for _ in range(4)] == ["p1_a", "p2_a", "p1_b", "p1_a"]


def test_who_was_faster_has_the_image_and_the_next_of_the_ranking_is_given(studies, monkeypatch):
    studies.register("a", "b", "c")
    ranked = next_image.rank_pool

    def slowly(*arguments, **options):
        ranking = ranked(*arguments, **options)
        with studies.ledger.writing() as connection:
            if leases.of_image(connection, "a") is None:
                leases.acquire(connection, "a", "fast", strategy="first", reason="", score=None, seconds=60)
        return ranking

    monkeypatch.setattr(next_image, "rank_pool", slowly)
    assert studies.ask("anna").image_id == "b"
    assert holders(studies) == {"a": "fast", "b": "anna"}


def test_who_asks_twice_at_once_gets_one_image(studies):
    studies.register(*(f"{number:03d}" for number in range(20)))
    given = ask_all_at_once(studies, ["anna"] * 8)
    assert len({image for _, image in given}) == 1
    assert len(holders(studies)) == 1


def test_random_begins_anywhere(studies):
    studies.register(*(f"{number:03d}" for number in range(200)))
    given = {studies.ask(client, "random", rng=np.random.default_rng()).image_id for client in CLIENTS}
    assert len(given) == 40
    assert len({name[0] for name in given}) == 2  # of 000 to 199, and not only the first ones


def test_review_is_leased_apart_from_labelling(studies):
    studies.register("a", "b", "c")
    with studies.ledger.writing() as connection:
        for name, change in (("a", 0.3), ("b", 0.7)):
            save_final(connection, name, change)
    assert studies.ask("anna", "first").image_id == "c"
    assert studies.ask("anna", "review").image_id == "b"
    assert studies.ask("anna", "review").image_id == "b"
    assert studies.ask("bob", "review").image_id == "a"
    with pytest.raises(BusyError, match="all 2 images that are left"):
        studies.ask("carl", "review")
    assert studies.ask("anna", "review", skip=True).image_id == "b"  # the only one in no other hands
    with studies.ledger.writing() as connection:
        assert len(pool.in_hands(connection, for_review=True)) == 2


def ask_all_at_once(studies, clients):
    """`[(client, image)]`, asked from as many threads as there are clients."""
    ready = threading.Barrier(len(clients))

    def ask(client):
        ready.wait()
        return client, studies.ask(client, "random", rng=np.random.default_rng()).image_id

    with ThreadPoolExecutor(len(clients)) as threads:
        return list(threads.map(ask, clients))


@pytest.fixture
def url(ledger_url, problems, tmp_path):  # noqa: F811
    """A ledger with an image for each client, not open in this process."""
    studies = Studies(ledger_url, tmp_path)
    studies.register(*(f"{number:03d}" for number in range(len(CLIENTS))))
    studies.ledger.close()
    return ledger_url


def test_forty_clients_at_once_get_forty_images(url, tmp_path):
    studies = Studies(url, tmp_path)
    given = ask_all_at_once(studies, CLIENTS)
    assert len({image for _, image in given}) == len(CLIENTS)
    assert holders(studies) == {image: client for client, image in given}
    assert dict(ask_all_at_once(studies, CLIENTS)) == dict(given)
    with pytest.raises(BusyError, match="all 40 images that are left are with 40 other annotators"):
        studies.ask("late")
    studies.ledger.close()


def ask_from_a_process(url, folder, clients, ready, answers):
    studies = Studies(url, folder)
    ready.wait()
    answers.put(ask_all_at_once(studies, clients))
    studies.ledger.close()


def test_two_processes_never_share_an_image(url, tmp_path):
    context = multiprocessing.get_context("fork")
    ready, answers = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=ask_from_a_process, args=(url, tmp_path, CLIENTS[start::2], ready, answers))
        for start in range(2)
    ]
    for process in processes:
        process.start()
    given = [pair for _ in processes for pair in answers.get(timeout=120)]
    for process in processes:
        process.join()
    assert sorted(client for client, _ in given) == sorted(CLIENTS)
    assert len({image for _, image in given}) == len(CLIENTS)
    studies = Studies(url, tmp_path)
    assert holders(studies) == {image: client for client, image in given}
    studies.ledger.close()


def test_a_lease_of_an_image_whose_row_is_gone_does_not_block(studies):
    with studies.ledger.writing() as connection:
        lease = leases.Lease("gone", "anna", "first", "", None, 0.0, 0.0, 4e9)
        connection.execute(insert(leases_table).values(lease.__dict__))
    assert studies.ask("anna") is None
    assert holders(studies) == {}
