import hashlib
from dataclasses import replace

import pytest

from lib.benchmarks.soak_journal import Journal, Submission
from lib.store.versions import Version


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def version(number, content, image="case_0", client="ann", *, source="client", sent=None):
    """As the store keeps a label; `sent` is what came where that is another file."""
    digits = sha256(sent or content)[:12]
    return Version(
        id=number, image_id=image, tag="final", number=number, file=f"{image}/final/T{number}Z-{digits}.nii.gz",
        size=1, sha256=sha256(content), sent=None, author=client, source=source, saved_at=0.0,
        seconds_since_lease=None, model_version=None, restored_from=None, voxels=None, ml=None,
        against_presegmentation=None, against_previous=None, change=None, info={},
    )  # fmt: skip


def answer(kept):
    return {"image": kept.image_id, "tag": kept.tag, "version": kept.number, "sha256": kept.sha256}


def restored_answer(kept):
    return {"image": kept.image_id, "tag": kept.tag, "number": kept.number, "sha256": kept.sha256}


def submission(content, image="case_0", client="ann"):
    return Submission(client, image, sha256(content))


@pytest.fixture
def journal():
    """Two labels sent and answered for, the second restored from the first."""
    made = Journal()
    for number, content in enumerate(("one", "two"), start=1):
        made.sends(submission(content))
        made.saved(submission(content), answer(version(number, content)))
    made.restored("rev", restored_answer(version(3, "one", client="rev")))
    return made


KEPT = (version(1, "one"), version(2, "two"), version(3, "one", client="rev", source="restored"))


def complaints(journal, kept=KEPT, content=None):
    return journal.complaints(kept, content or (lambda one: one.sha256))


def test_what_is_as_it_was_sent_is_no_complaint(journal):
    assert complaints(journal) == []
    assert len(journal.acknowledged) == 3
    assert journal.counts(["ann", "eve", "rev"]) == {"ann": 2, "eve": 0, "rev": 0}
    assert Journal().complaints([], lambda _: None) == []


def test_a_label_in_another_format_is_known_by_what_was_sent(journal):
    kept = version(4, "as stored", sent="as sent")
    journal.sends(submission("as sent"))
    journal.saved(submission("as sent"), answer(kept))
    assert complaints(journal, (*KEPT, kept)) == []


def test_a_lost_label(journal):
    assert complaints(journal, (KEPT[0],)) == [
        "case_0, final, version 2 of ann is lost: the ledger has no such version",
        "case_0, final, version 3 of rev is lost: the ledger has no such version",
        f"{sha256('two')[:12]}: 1 times answered for, kept 0 times",
    ]


@pytest.mark.parametrize("change", [{"sha256": sha256("x")}, {"author": "eve"}, {"source": "found"}])
def test_a_version_that_is_not_what_was_told(journal, change):
    found = complaints(journal, (KEPT[0], replace(KEPT[1], **change), KEPT[2]))
    assert found[0] == "case_0, final, version 2 of ann is another label now, or another's"


def test_a_file_that_is_gone_or_damaged(journal):
    for content in (None, sha256("x")):
        assert complaints(journal, content=lambda one, is_=content: is_ if one.number == 2 else one.sha256) == [
            "case_0, final, version 2: its file is missing or not what the ledger says"
        ]


def test_one_submission_kept_twice(journal):
    extra = version(4, "two")
    assert complaints(journal, (*KEPT, extra)) == ["case_0, final, version 4: sent 1 times, kept 2 times"]
    journal.sends(submission("two"))  # a double click: two requests, two versions
    assert complaints(journal, (*KEPT, extra)) == []


def test_one_version_told_to_two(journal):
    journal.sends(submission("two"))
    journal.saved(submission("two"), answer(KEPT[1]))
    assert complaints(journal)[0] == "case_0, final, version 2: two clients were told that it is theirs"


def test_a_client_that_did_not_wait_may_be_kept_or_not(journal):
    journal.sends(submission("gone"))
    assert complaints(journal) == []
    assert complaints(journal, (*KEPT, version(4, "gone"))) == []


def test_half_a_label_is_never_kept(journal):
    journal.cuts(submission("half"))
    assert complaints(journal) == []
    assert complaints(journal, (*KEPT, version(4, "half"))) == ["case_0, final, version 4: only a part of it was sent"]


def test_a_label_that_nobody_sent(journal):
    assert complaints(journal, (*KEPT, version(4, "from nowhere"))) == ["case_0, final, version 4: nobody sent it"]
    assert complaints(journal, (*KEPT, version(4, "made", source="model"))) == []


def test_numbers_with_a_gap(journal):
    journal.sends(submission("five"))
    assert complaints(journal, (*KEPT, version(5, "five"))) == ["case_0, final: versions are not numbered 1, 2, 3"]


def test_what_a_client_was_given_must_be_a_version(journal):
    journal.shown("case_0", sha256("two"))
    assert complaints(journal) == []
    journal.shown("case_0", sha256("x"))
    assert complaints(journal) == [f"case_0: a client was given a label ({sha256('x')[:12]}) that is no version"]
