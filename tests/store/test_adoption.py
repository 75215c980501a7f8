import json
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from lib.errors import BadInputError
from lib.store import adoption, images
from lib.store.adoption import adopt
from lib.store.images import FileState
from lib.store.layout import FINAL, Layout
from lib.store.ledger import Ledger
from lib.store.scan import scan
from lib.store.schema import labels as labels_table
from lib.store.schema import versions as versions_table

on_sqlite = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)  # where no database is in doubt
SLICER = [{"name": "tumor", "idx": 1}, {"name": "liver", "idx": 2}]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    studies = tmp_path / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    return Layout(studies)


def put(path: Path, content: bytes = b"voxels") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (1_000, 1_000))
    return path


def write_table(layout: Layout, objects: Any, **fields: Any) -> Path:
    table = {"name": "new-dataset", "description": "New Dataset", "images_dir": ".", "labels_dir": "labels"}
    path = layout.studies / "datastore_v2.json"
    path.write_text(json.dumps({**table, **fields, "objects": objects}), encoding="utf-8")
    return path


def entry(info: dict[str, Any], **labels: dict[str, Any]) -> dict[str, Any]:
    return {
        "image": {"ext": ".nii.gz", "info": info},
        "labels": {tag: {"ext": ".nii.gz", "info": noted} for tag, noted in labels.items()},
    }


def image_info(ledger: Ledger, image_id: str) -> dict[str, Any]:
    with ledger.reading() as connection:
        return images.get(connection, image_id).info


def label_row(ledger: Ledger, image_id: str, tag: str = FINAL) -> Any:
    with ledger.reading() as connection:
        query = select(labels_table).where(labels_table.c.image_id == image_id, labels_table.c.tag == tag)
        return connection.execute(query).one()


def fact(ledger: Ledger, key: str) -> str | None:
    with ledger.reading() as connection:
        return ledger.fact(connection, key)


def test_notes_are_taken_over_and_the_file_is_left(ledger: Ledger, layout: Layout) -> None:
    for name in "ab":
        put(layout.studies / f"{name}.nii.gz")
        put(layout.tag(FINAL) / f"{name}.nii.gz")
    put(layout.tag("original") / "a.nii.gz")
    scan(ledger, layout)
    strategy = {"random": {"ts": 5, "client_id": "user-xyz"}}
    objects = {
        "a": entry({"ts": 4, "strategy": strategy}, final={"label_info": SLICER}, original={"label_info": []}),
        "b": entry({}, final={"label_indices": {"liver": 2, "tumor": 1}}),
        "gone": entry({"ts": 1}, final={"label_info": SLICER}),
    }
    path = write_table(layout, objects, name="ct", description="from the clinic")
    content = path.read_bytes()
    assert adopt(ledger, layout) == 4
    assert image_info(ledger, "a") == {"ts": 4, "name": "a.nii.gz", "strategy": strategy}
    assert label_row(ledger, "a").info == {"label_info": SLICER}
    assert label_row(ledger, "a", "original").info == {"label_info": []}
    assert label_row(ledger, "b").info == {"label_indices": {"liver": 2, "tumor": 1}}
    assert (fact(ledger, "name"), fact(ledger, "description")) == ("ct", "from the clinic")
    assert path.read_bytes() == content


@on_sqlite
def test_a_file_is_taken_over_once_and_again_when_it_changes(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    scan(ledger, layout)
    write_table(layout, {"a": entry({"note": 1})})
    assert adopt(ledger, layout) == 1
    with ledger.writing() as connection:
        images.note_info(connection, "a", {"note": 2})
    assert adopt(ledger, layout) == 0
    assert image_info(ledger, "a")["note"] == 2
    write_table(layout, {"a": entry({"note": 3})})
    assert adopt(ledger, layout) == 1
    assert image_info(ledger, "a")["note"] == 3


@on_sqlite
def test_a_folder_without_the_file_has_nothing_to_take_over(ledger: Ledger, layout: Layout) -> None:
    assert adopt(ledger, layout) == 0
    assert fact(ledger, "adopted") is None


@on_sqlite
def test_versions_keep_what_they_mean_unless_another_program_wrote_over_them(ledger: Ledger, layout: Layout) -> None:
    for name in ("same", "other"):
        put(layout.studies / f"{name}.nii.gz")
        put(layout.tag(FINAL) / f"{name}.nii.gz")
    scan(ledger, layout)
    for number, name in enumerate(("same", "other")):
        state = FileState.of(layout.shown(name, FINAL), ".nii.gz")
        with ledger.writing() as connection:
            inserted = connection.execute(
                insert(versions_table).values(
                    image_id=name, tag=FINAL, number=1, file=str(number), size=6, sha256="", author="me",
                    source="client", saved_at=1.0, info={},
                )
            )  # fmt: skip
            connection.execute(
                update(labels_table)
                .where(labels_table.c.image_id == name)
                .values(
                    version_id=inserted.inserted_primary_key[0],
                    shown_size=state.size,
                    shown_modified_ns=state.modified_ns,
                )
            )
    put(layout.shown("other", FINAL), b"by MONAI Label")
    write_table(layout, {name: entry({}, final={"label_info": SLICER}) for name in ("same", "other")})
    assert adopt(ledger, layout) == 1
    assert label_row(ledger, "same").info is None
    assert label_row(ledger, "other").info == {"label_info": SLICER}
    assert label_row(ledger, "other").version_id is not None


@on_sqlite
def test_a_label_that_was_not_understood_is_tried_again_with_its_names(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    put(layout.tag(FINAL) / "a.nii.gz")
    scan(ledger, layout)
    with ledger.writing() as connection:
        connection.execute(update(labels_table).values(problem="no", shown_size=6, shown_modified_ns=0))
    write_table(layout, {"a": entry({}, final={"label_info": SLICER})})
    adopt(ledger, layout)
    row = label_row(ledger, "a")
    assert (row.problem, row.shown_size) == (None, None)


def test_what_other_writers_put_into_it_is_no_damage(ledger: Ledger, layout: Layout) -> None:
    put(layout.studies / "a.nii.gz")
    put(layout.studies / "b.nii.gz")
    scan(ledger, layout)
    broken = os.fsdecode(b"case_\xff")
    objects = {
        "a": entry({"score": float("nan"), "from": broken, "empty": "\x00"}),
        "b": {"image": {"ext": ".nii.gz"}},
        broken: entry({"ts": 1}),
        "../x": entry({"ts": 1}),
        "c": {},
    }
    write_table(layout, objects)
    assert adopt(ledger, layout) == 1
    assert image_info(ledger, "a")["score"] is None
    assert image_info(ledger, "a")["from"] == broken


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", '{"objects": [1]}', '{"objects": {"a": 1}}', '{"objects": {"a": {"image": []}}}',
     '{"objects": {"a": {"labels": {"final": 1}}}}', '{"objects": {"a": {"image": {"info": [1]}}}}', '{"a": "\xff"}',
     "[" * 100_000],
    ids=lambda content: content[:40] or "empty",
)  # fmt: skip
@on_sqlite
def test_a_damaged_file_is_named_with_the_remedy(ledger: Ledger, layout: Layout, content: str) -> None:
    (layout.studies / "datastore_v2.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInputError, match=r"datastore_v2\.json is damaged; move it away: images and labels are"):
        adopt(ledger, layout)
    assert fact(ledger, "adopted") is None


@on_sqlite
def test_interrupted_it_begins_anew(ledger: Ledger, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "_CHUNK", 2)
    names = [f"case_{number}" for number in range(5)]
    for name in names:
        put(layout.studies / f"{name}.nii.gz")
    scan(ledger, layout)
    write_table(layout, {name: entry({"note": name}) for name in names})
    plain, calls = adoption._note_images, []

    def fail_second(*args: Any) -> int:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(adoption, "_note_images", fail_second)
    with pytest.raises(KeyboardInterrupt):
        adopt(ledger, layout)
    assert adopt(ledger, layout) == 3
    assert [image_info(ledger, name)["note"] for name in names] == names


def test_what_the_store_of_monai_label_writes_is_understood(ledger: Ledger, layout: Layout, tmp_path: Path) -> None:
    local = pytest.importorskip("monailabel.datastore.local")
    put(layout.studies / "a.nii.gz")
    theirs = local.LocalDatastore(str(layout.studies))
    theirs.save_label("a", str(put(tmp_path / "sent.nii.gz", b"label")), FINAL, {"label_info": SLICER})
    theirs.update_image_info("a", {"strategy": {"first": {"ts": 1}}})
    scan(ledger, layout)
    assert adopt(ledger, layout) == 2
    assert image_info(ledger, "a")["strategy"] == {"first": {"ts": 1}}
    assert label_row(ledger, "a").info["label_info"] == SLICER
