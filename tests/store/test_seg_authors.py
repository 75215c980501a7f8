from lib.store import seg_authors
from lib.store.seg_authors import SegAuthors


def test_who_stored_it():
    authors = SegAuthors()
    authors.note({"1.2": "ann", "1.3": "ann"})
    authors.note({})
    authors.note({"1.4": "rob"})
    assert [authors.of(uid) for uid in ("1.2", "1.3", "1.4", "1.5")] == ["ann", "ann", "rob", ""]


def test_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr(seg_authors, "_MOST", 2)
    authors = SegAuthors()
    for uid in ("1.1", "1.2", "1.3"):
        authors.note({uid: "ann"})
    assert [authors.of(uid) for uid in ("1.1", "1.2", "1.3")] == ["", "ann", "ann"]
