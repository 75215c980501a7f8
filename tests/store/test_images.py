"""What the ledger knows of images; whether one waits to be labelled always follows from what happened to it."""

from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select

from lib.case_scores import CaseScores
from lib.errors import NotFoundError
from lib.store import images, scores
from lib.store.events import history
from lib.store.images import FileState
from lib.store.schema import images as images_table
from lib.store.schema import labels as labels_table
from lib.volume import Grid

STATE = FileState(".nii.gz", 1000, 5_000_000_000_000_000_001)
GRID = Grid((3, 4, 5), np.diag([-0.7, -0.8, 2.5, 1.0]))


@pytest.fixture
def connection(ledger):
    with ledger.writing() as opened:
        yield opened


def register(connection, *names):
    images.register(connection, [(name, STATE) for name in names])


def set_label(connection, name, tag):
    connection.execute(insert(labels_table).values(image_id=name, tag=tag, suffix=".nii.gz"))
    images.reckon(connection, [name])


def remove_label(connection, name, tag):
    connection.execute(delete(labels_table).where(labels_table.c.image_id == name, labels_table.c.tag == tag))
    images.reckon(connection, [name])


def column(connection, name, what):
    return connection.scalar(select(images_table.c[what]).where(images_table.c.image_id == name))


def told(connection, name):
    return [(event.kind, event.actor, event.detail) for event in reversed(history(connection, name))]


# ---- an image


def test_a_file_is_registered_as_it_was_found(connection):
    images.register(connection, [("case_1", STATE)], {"case_1": {"origin": "upload"}})
    image = images.get(connection, "case_1")
    assert image.file == STATE
    assert (image.present, image.problem, image.excluded, image.labelled, image.grid) == (True, None, None, False, None)
    assert image.info == {"ts": image.info["ts"], "name": "case_1.nii.gz", "origin": "upload"}
    assert images.find(connection, "case_1") == image
    assert 0 <= column(connection, "case_1", "shuffle") < 1
    assert column(connection, "case_1", "served_at") == 0
    assert told(connection, "case_1") == []


def test_the_state_of_a_file(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(b"12345")
    first = FileState.of(path, ".nii")
    assert (first.suffix, first.size) == (".nii", 5)
    assert first == FileState.of(path, ".nii")
    path.write_bytes(b"123456")
    assert FileState.of(path, ".nii") != first
    with pytest.raises(FileNotFoundError):
        FileState.of(tmp_path / "b.nii", ".nii")


def test_no_files_and_many_files_can_be_registered(connection):
    images.register(connection, [])
    names = [f"case_{number:04d}" for number in range(1203)]  # more than one statement takes
    register(connection, *names)
    assert images.names(connection) == names
    assert images.counts(connection) == {"total": 1203, "completed": 0, "open": 1203, "excluded": 0, "unfit": 0}
    images.note_vanished(connection, iter(names[1:]))
    assert images.names(connection) == names[:1]


def test_an_image_with_a_label_is_not_in_the_pool_from_the_start(connection):
    connection.execute(insert(labels_table).values(image_id="case_1", tag="final", suffix=".nii.gz"))
    register(connection, "case_1", "case_2")
    assert images.get(connection, "case_1").labelled
    assert images.names(connection, open_only=True) == ["case_2"]


def test_what_is_not_there_is_not_found(connection):
    register(connection, "case_1")
    images.note_vanished(connection, ["case_1"])
    for name in ("case_1", "case_2"):
        assert images.find(connection, name) is None
        with pytest.raises(NotFoundError, match=f"there is no image '{name}' in the studies folder"):
            images.get(connection, name)
        for change in (
            lambda name=name: images.exclude(connection, name, "why", "anna"),
            lambda name=name: images.include(connection, name, "why", "anna"),
            lambda name=name: images.note_info(connection, name, {}),
        ):
            with pytest.raises(NotFoundError, match=name):
                change()


def test_a_long_name_is_cut_in_the_message(connection):
    with pytest.raises(NotFoundError) as refused:
        images.get(connection, "x" * 1000)
    assert len(str(refused.value)) < 150


# ---- what is noted


def test_the_grid_comes_back_exactly(connection):
    register(connection, "case_1")
    affine = GRID.affine + np.random.default_rng(0).random((4, 4))
    images.note_content(connection, "case_1", Grid((512, 512, 80), affine), "print", "hash")
    grid = images.get(connection, "case_1").grid
    assert grid.shape == (512, 512, 80)
    assert np.array_equal(grid.affine, affine)
    assert column(connection, "case_1", "sha256") == "hash"
    images.note_content(connection, "case_1", GRID, "print")
    assert column(connection, "case_1", "sha256") == "hash"  # not known this time


def test_an_image_that_can_be_read_has_no_problem(connection):
    register(connection, "case_1")
    images.note_problem(connection, "case_1", "truncated")
    images.note_content(connection, "case_1", GRID, "print")
    assert images.get(connection, "case_1").problem is None
    assert images.names(connection, open_only=True) == ["case_1"]


def test_info_is_added_to(connection):
    register(connection, "case_1")
    images.note_info(connection, "case_1", {"a": 1, "b": [1]})
    images.note_info(connection, "case_1", {"a": 2})
    info = images.get(connection, "case_1").info
    assert (info["a"], info["b"], info["name"]) == (2, [1], "case_1.nii.gz")


def test_a_problem_is_told_once(connection):
    register(connection, "case_1")
    images.note_problem(connection, "case_1", None)
    images.note_problem(connection, "case_1", "truncated")
    images.note_problem(connection, "case_1", "truncated")
    assert images.get(connection, "case_1").problem == "truncated"
    images.note_problem(connection, "case_1", None)
    expected = [("image refused", "server", {"reason": "truncated"}), ("image fit", "server", {"reason": "truncated"})]
    assert told(connection, "case_1") == expected


def test_excluding_is_told_with_who_and_why(connection):
    register(connection, "case_1", "case_2")
    images.exclude(connection, "case_1", "other contrast", "anna")
    assert images.excluded(connection) == {"case_1": "other contrast"}
    assert images.names(connection, open_only=True) == ["case_2"]
    images.include(connection, "case_1", "after all", "ben")
    assert images.excluded(connection) == {}
    assert told(connection, "case_1") == [
        ("image excluded", "anna", {"reason": "other contrast"}),
        ("image included", "ben", {"reason": "after all"}),
    ]


def test_another_content_forgets_what_was_read_but_not_what_people_said(connection):
    register(connection, "case_1")
    images.note_content(connection, "case_1", GRID, "print", "hash")
    scores.note(connection, "case_1", "model 1", CaseScores(0.5, {}))
    images.exclude(connection, "case_1", "other contrast", "anna")
    images.note_info(connection, "case_1", {"a": 1})
    shuffle = column(connection, "case_1", "shuffle")
    changed = replace(STATE, suffix=".nrrd", size=7)
    images.note_changed(connection, "case_1", changed)
    image = images.get(connection, "case_1")
    assert (image.file, image.grid, image.excluded, image.info["a"]) == (changed, None, "other contrast", 1)
    for what in ("fingerprint", "sha256"):
        assert column(connection, "case_1", what) is None
    assert scores.of_images(connection, ["case_1"]) == {}
    assert column(connection, "case_1", "scored") is False
    assert column(connection, "case_1", "shuffle") == shuffle
    assert told(connection, "case_1")[-1] == ("image changed", "server", {"size": 7})


def test_an_image_comes_back_with_its_label(connection):
    register(connection, "case_1")
    set_label(connection, "case_1", "final")
    images.note_vanished(connection, ["case_1"])
    assert images.counts(connection) == {"total": 0, "completed": 0, "open": 0, "excluded": 0, "unfit": 0}
    images.note_changed(connection, "case_1", STATE)
    assert images.get(connection, "case_1").labelled
    assert images.counts(connection) == {"total": 1, "completed": 1, "open": 0, "excluded": 0, "unfit": 0}
    assert [kind for kind, _, _ in told(connection, "case_1")] == ["image vanished", "image is back"]


def test_equal_content_is_found_while_it_is_there(connection):
    register(connection, "case_2")
    register(connection, "case_1")
    for name in ("case_1", "case_2"):
        images.note_content(connection, name, GRID, "print")
    assert images.same_content(connection, "print") == "case_2"  # the one that came first
    images.note_vanished(connection, ["case_2"])
    assert images.same_content(connection, "print") == "case_1"
    assert images.same_content(connection, "other") is None


# ---- whatever happens


@dataclass
class Expected:
    """What must follow for one image from what happened to it."""

    present: bool = True
    problem: str | None = None
    excluded: str | None = None
    tags: set[str] = field(default_factory=set)

    @property
    def labelled(self):
        return "final" in self.tags

    @property
    def open(self):
        return self.present and self.problem is None and self.excluded is None and not self.labelled


def file_of(connection, name):
    columns = (images_table.c.suffix, images_table.c.size, images_table.c.modified_ns)
    return FileState(*connection.execute(select(*columns).where(images_table.c.image_id == name)).one())


def exclude(connection, name, expected):
    images.exclude(connection, name, f"reason {name}", "anna")
    expected.excluded = f"reason {name}"


def include(connection, name, expected):
    images.include(connection, name, "again", "anna")
    expected.excluded = None


def problem(connection, name, expected):
    images.note_problem(connection, name, "truncated")
    expected.problem = "truncated"


def no_problem(connection, name, expected):
    images.note_problem(connection, name, None)
    expected.problem = None


def read(connection, name, expected):
    images.note_content(connection, name, GRID, "print")
    expected.problem = None


def vanish(connection, name, expected):
    images.note_vanished(connection, [name])
    expected.present = False


def back(connection, name, expected):
    images.note_changed(connection, name, file_of(connection, name))
    expected.present = True


def changed(connection, name, expected):
    before = file_of(connection, name)
    images.note_changed(connection, name, replace(before, size=before.size + 1))
    expected.present, expected.problem = True, None


def final(connection, name, expected):
    if "final" not in expected.tags:
        set_label(connection, name, "final")
    expected.tags.add("final")


def original(connection, name, expected):
    if "original" not in expected.tags:
        set_label(connection, name, "original")
    expected.tags.add("original")


def no_final(connection, name, expected):
    remove_label(connection, name, "final")
    expected.tags.discard("final")


_NAMES = ("B", "a", "c.1")
_STEPS = (exclude, include, problem, no_problem, read, vanish, back, changed, final, original, no_final)


class UndoError(Exception):
    """The end of an example: the next begins with the empty ledger again."""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=False)
@given(steps=st.lists(st.tuples(st.sampled_from(_STEPS), st.sampled_from(_NAMES)), max_size=20))
def test_whether_an_image_is_open_follows_from_what_happened(ledger, steps):
    with suppress(UndoError), ledger.writing() as connection:
        register(connection, *_NAMES)
        model = {name: Expected() for name in _NAMES}
        for step, name in steps:
            with suppress(NotFoundError):  # of an image that is gone
                step(connection, name, model[name])
            compare(connection, model)
        raise UndoError


def compare(connection, model):
    there = [name for name in sorted(model) if model[name].present]
    fit = [name for name in there if model[name].excluded is None]
    waiting = [name for name in there if model[name].open]
    done = [name for name in there if model[name].labelled]
    assert images.names(connection) == there
    assert images.names(connection, open_only=True) == waiting
    assert images.names(connection, labelled=True) == [name for name in fit if name in done]
    assert images.names(connection, labelled=False) == [name for name in fit if name not in done]
    excluded = {name: model[name].excluded for name in sorted(model) if model[name].excluded}
    assert images.excluded(connection) == excluded
    assert images.counts(connection) == {
        "total": len(there),
        "completed": len(done),
        "open": len(waiting),
        "excluded": len(excluded),
        "unfit": sum(model[name].problem is not None for name in there),
    }
    for name in _NAMES:
        assert column(connection, name, "open") == model[name].open
        assert column(connection, name, "labelled") == model[name].labelled
