"""An archive comes back whole, on any database and beside other work, or is refused before anything is written."""

import hashlib
import json
import re
import shutil
import zipfile
from collections import Counter

import pytest
from sqlalchemy import select, update

from lib.case_scores import CaseScores
from lib.errors import BadInputError, NotFoundError, StorageError
from lib.files import file_sha256
from lib.settings import Settings
from lib.store import archive_import, audit, images, leases, schema, scores, splits
from lib.store.archive import export_archive
from lib.store.archive_import import Imported, import_archive
from lib.store.audit import check
from lib.store.store import Store
from lib.volume_io import read_label
from tests.store.filled import add_image, exclude, fill, label_file, open_store

NAMES = ["a", "b", "o", "p", "x"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(audit, "_PAUSE_S", 0.0)  # nobody saves while it checks


@pytest.fixture
def source(tmp_path):
    """A store in use, on SQLite."""
    for seed, name in enumerate(NAMES):
        add_image(tmp_path / "source", name, seed)
    store = open_store(tmp_path / "source")
    fill(store, tmp_path / "scratch", ["a", "b"], ["o", "p"])
    exclude(store, "x")
    with store.ledger.writing() as connection:
        scores.note(connection, "o", "v1", CaseScores(0.25, {}))
        images.note_info(connection, "x", {"colour": "gray"})
        store.ledger.set_fact(connection, "name", "Livers")
    store.labels.restore("a", "final", 1, author="eve")
    store.labels.withdraw("b", "original", author="eve")
    label_file(store.layout.shown("p", "waits"), 7)
    store.look()
    yield store
    store.close()


@pytest.fixture
def archive(source, tmp_path):
    export_archive(source, tmp_path / "a.zip")
    return tmp_path / "a.zip"


@pytest.fixture
def target(source, tmp_path, ledger_url):
    """An empty store on either database, with the same images."""
    (tmp_path / "target").mkdir()
    for name in NAMES:
        shutil.copy2(tmp_path / "source" / f"{name}.nii.gz", tmp_path / "target")
    store = open_store(tmp_path / "target", ledger_url)
    yield store
    store.close()


def tables(store):
    """Every row but for ids that a database counts up, and times of files that were written anew."""
    result = {}
    with store.ledger.reading() as connection:
        numbers = {row.id: row.number for row in connection.execute(select(schema.versions))}
        for name in ("facts", "images", "versions", "labels", "presegmentations", "leases", "events"):
            table = schema.metadata.tables[name]
            rows = []
            for row in connection.execute(select(table)).mappings():
                row = {key: value for key, value in row.items() if key not in {"id", "shown_modified_ns", "scored"}}
                if name == "labels":
                    row["version_id"] = numbers.get(row["version_id"])
                if name == "facts" and row["key"] in {"belongs_to", "made_at", "scanned_at"}:
                    continue
                if row.get("kind") != "archive imported":
                    rows.append(json.dumps(row, sort_keys=True))
            result[name] = rows if name == "events" else sorted(rows)
    return result


def files(store):
    folders = (store.layout.versions, store.layout.presegmentations, store.layout.labels)
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(store.layout.studies).as_posix(): file_sha256(path) for path in found}


def test_there_and_back_is_the_same(source, target, archive, tmp_path):
    seen = []
    imported = import_archive(target, archive, seen.append)
    assert imported == Imported(
        images=0, versions=7, labels=3, files=len(seen) // 2, events=len(tables(source)["events"])
    )
    assert seen == list(range(1, len(seen) + 1))
    assert tables(target) == tables(source)
    assert files(target) == files(source)
    kinds = {(str(finding.kind), finding.image_id) for finding in check(target)}
    assert kinds == {("label not taken in", "p")}
    # And from there into an archive that says the same.
    export_archive(target, tmp_path / "b.zip")
    again = import_archive(source, tmp_path / "b.zip")
    assert again == Imported(events=1)  # that of the first import


def test_twice_changes_nothing(target, archive):
    import_archive(target, archive)
    target.rescan()
    with target.ledger.writing() as connection:
        images.include(connection, "x", "looked again", "ann")
    before, files_before = tables(target), files(target)
    assert not import_archive(target, archive)
    assert tables(target) == before
    assert files(target) == files_before


def test_labels_wait_for_their_images(archive, tmp_path, ledger_url):
    store = open_store(tmp_path / "new", ledger_url)
    try:
        imported = import_archive(store, archive)
        assert (imported.images, imported.versions) == (len(NAMES), 7)
        with store.ledger.reading() as connection:
            assert images.names(connection) == []
        assert store.layout.shown("a", "final").is_file()
        shutil.copy2(tmp_path / "source" / "a.nii.gz", store.layout.studies)
        store.rescan()
        with store.ledger.reading() as connection:
            assert images.names(connection, labelled=True) == ["a"]
            assert leases.list_all(connection) == []
        assert [version.number for version in store.labels.history("a", "final")] == [3, 2, 1]
        assert store.labels.restore("a", "final", 2, author="ann").number == 4
    finally:
        store.close()


def test_the_rest_of_a_history_is_added(source, target, archive, tmp_path):
    import_archive(target, archive)
    source.labels.save("a", label_file(tmp_path / "n.nii.gz", 900), "final", author="ann")
    source.labels.save("o", label_file(tmp_path / "n.nii.gz", 901), "final", author="ann")
    export_archive(source, tmp_path / "later.zip")
    assert import_archive(target, tmp_path / "later.zip").versions == 2
    shown = [files(store)["labels/final/a.nii.gz"] for store in (source, target)]
    assert shown[0] == shown[1]
    assert [version.number for version in target.labels.history("a", "final")] == [4, 3, 2, 1]
    # An archive that is older than what is here changes nothing.
    before = tables(target)
    assert not import_archive(target, archive)
    assert tables(target) == before


def test_another_history_is_refused_before_anything_is_written(target, archive, tmp_path):
    target.labels.save("b", label_file(tmp_path / "n.nii.gz", 900), "final", author="zoe")
    before, files_before = tables(target), files(target)
    message = (
        r"nothing was imported: version 1 of the label 'final' of image 'b' is another one here than in the archive"
    )
    with pytest.raises(BadInputError, match=message):
        import_archive(target, archive)
    assert tables(target) == before
    assert files(target) == files_before


def test_another_image_of_the_same_name_is_refused(source, target, archive, tmp_path):
    grid = {"shape": [9, 9, 9], "affine": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}
    for store in (source, target):
        with store.ledger.writing() as connection:
            connection.execute(update(schema.images).where(schema.images.c.image_id == "a").values(grid=grid))
        grid = {**grid, "shape": [9, 9, 8]}
    export_archive(source, tmp_path / "b.zip")
    with pytest.raises(BadInputError, match=r"image 'a' has \(9, 9, 8\) voxels here and \(9, 9, 9\) in the archive"):
        import_archive(target, tmp_path / "b.zip")


def test_what_is_lost_comes_back(target, archive, tmp_path):
    import_archive(target, archive)
    before = files(target)
    newest, oldest = (target.labels.path(version) for version in target.labels.history("b", "final"))
    newest.unlink()
    oldest.write_bytes(b"damaged")
    assert import_archive(target, archive) == Imported(files=2)
    after = files(target)
    assert after.items() >= before.items()
    aside = [name for name in after.keys() - before.keys() if not name.endswith(".json")]
    assert [(target.layout.studies / name).read_bytes() for name in aside] == [b"damaged"]


def test_anothers_label_in_the_folder_is_kept_aside(target, archive):
    label_file(target.layout.shown("a", "final"), 901)
    label_file(target.layout.shown("p", "waits"), 902)
    kept = {files(target)["labels/final/a.nii.gz"], files(target)["labels/waits/p.nii.gz"]}
    target.look()
    import_archive(target, archive)
    assert kept <= set(files(target).values())
    assert files(target)["labels/final/a.nii.gz"] not in kept
    before = files(target)
    assert not import_archive(target, archive)
    assert files(target) == before


def test_interrupted_it_is_started_again(source, target, archive, monkeypatch):
    monkeypatch.setattr(archive_import, "_PAGE", 1)
    written = archive_import._Import._add_rows

    def fail_at_o(self, connection, group, here):
        if group.image_id == "o":
            raise StorageError("the disk is full")
        return written(self, connection, group, here)

    with monkeypatch.context() as patch:
        patch.setattr(archive_import._Import, "_add_rows", fail_at_o)
        with pytest.raises(StorageError):
            import_archive(target, archive)
    import_archive(target, archive)
    assert tables(target) == tables(source)
    assert files(target) == files(source)


def test_killed_before_the_labels_are_shown(source, target, archive, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(archive_import._Import, "_show", lambda _: pytest.exit("killed"))
        with pytest.raises(pytest.exit.Exception):
            import_archive(target, archive)
    assert import_archive(target, archive).labels == 3
    assert tables(target) == tables(source)
    assert files(target) == files(source)


def test_no_room(target, archive, monkeypatch):
    before, files_before = tables(target), files(target)
    usage = shutil.disk_usage(target.layout.studies)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=archive_import._SPARE_BYTES + 10))
    with pytest.raises(StorageError, match=r"the archive needs 0\.0 GB in .*target"):
        import_archive(target, archive)
    assert (tables(target), files(target)) == (before, files_before)


def test_classes_with_other_numbers_are_turned_into_ours(source, archive, tmp_path):
    shutil.copytree(tmp_path / "source", tmp_path / "other", ignore=shutil.ignore_patterns("ledger", "labels"))
    swapped = Settings.model_validate({"labels": {"tumor": {"index": 1}, "liver": {"index": 2}}})
    store = Store(tmp_path / "other", swapped)
    try:
        import_archive(store, archive)
        theirs, ours = (read_label(one.layout.shown("a", "final")).array for one in (source, store))
        assert ((theirs == 1) == (ours == 2)).all()
        assert store.labels.history("a", "final")[0].source == "remapped"
        assert not import_archive(store, archive)
    finally:
        store.close()


def test_versions_whose_file_was_lost_are_announced(source, target, tmp_path):
    path = source.labels.path(source.labels.history("b", "final")[1])
    path.unlink()
    exported = export_archive(source, tmp_path / "b.zip")
    assert len(exported.missing) == 1
    import_archive(target, tmp_path / "b.zip")
    assert tables(target)["versions"] == tables(source)["versions"]
    assert "version lost" in {str(finding.kind) for finding in check(target)}


def rewritten(archive, path, change):
    """The archive with its members changed by hand: `change` gets and gives `{name: bytes}`."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    members = change(members)
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return path


def sealed(members):
    """As somebody would who means harm: with the hash and the counts of the changed rows."""
    manifest = json.loads(members["manifest.json"])
    manifest["ledger_sha256"] = hashlib.sha256(members["ledger.jsonl"]).hexdigest()
    manifest["rows"] = Counter(re.findall(r'(?m)^{"table": "(\w+)"', members["ledger.jsonl"].decode()))
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def with_row(table, **values):
    """Change the first row of a table and all files of that name."""

    def change(members):
        lines = [json.loads(line) for line in members["ledger.jsonl"].splitlines()]
        row = next(line["row"] for line in lines if line["table"] == table)
        renamed = {f"{table}/{row.get('file')}": f"{table}/{values['file']}"} if "file" in values else {}
        row |= values
        members = {renamed.get(name, name): content for name, content in members.items()}
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        return sealed({**members, "ledger.jsonl": content})

    return change


def of_schema_1(members):
    """As it would have been before scores had tables of their own."""
    lines = [json.loads(line) for line in members["ledger.jsonl"].splitlines()]
    for line in lines:
        if line["table"] == "images":
            line["row"] |= {"score": 0.5, "score_version": "v0"}
        if line["table"] == "leases":
            del line["row"]["part"]
    members["manifest.json"] = json.dumps({**json.loads(members["manifest.json"]), "schema": 1}).encode()
    return sealed({**members, "ledger.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines)})


def test_an_archive_made_before_scores_had_tables(source, target, archive, tmp_path):
    import_archive(target, rewritten(archive, tmp_path / "old.zip", of_schema_1))
    assert tables(target) == tables(source)
    with target.ledger.reading() as connection:
        assert scores.counts(connection, "v1") == scores.Counts(0, 0, 2)


def with_lines(change):
    def rewrite(members):
        return sealed({**members, "ledger.jsonl": b"".join(change(members["ledger.jsonl"].splitlines(keepends=True)))})

    return rewrite


def first_version(members):
    return next(name for name in members if name.startswith("versions/"))


def flipped(members):
    name = first_version(members)
    return {**members, name: members[name][:-1] + bytes([members[name][-1] ^ 1])}


ATTACKS = {
    "an unannounced member": (lambda m: {**m, "versions/../../evil": b"x"}, "which its rows do not name"),
    "a path upwards": (with_row("versions", file="../../../evil.nii.gz"), "is not in the folder a/final"),
    "an absolute path": (with_row("versions", file="/etc/evil.nii.gz"), "is not in the folder a/final"),
    "a backslash": (with_row("versions", file="a/final/..\\evil.nii.gz"), "is not allowed"),
    "an unfit image id": (with_row("images", image_id="../evil"), "image id '../evil' is not allowed"),
    "an unfit tag": (with_row("labels", tag="refused"), "is the folder of refused labels"),
    "an unfit suffix": (with_row("images", suffix="/../x.nii.gz"), "the suffix '/../x.nii.gz' is none of"),
    "an unfit refused file": (with_row("files", member="refused/../../evil"), "belongs nowhere"),
    "a flipped bit": (flipped, "with another content than its row says"),
    "a cut file": (lambda m: {**m, first_version(m): b"x"}, "with 1 bytes instead of"),
    "a missing file": (lambda m: {k: v for k, v in m.items() if k != first_version(m)}, "lacks 'versions/a/"),
    "changed rows": (lambda m: {**m, "ledger.jsonl": m["ledger.jsonl"] + b"\n"}, "another content than manifest"),
    "another table": (
        with_lines(lambda lines: [b'{"table": "users", "row": {}}\n', *lines]),
        "there is no table 'users'",
    ),
    "another column": (with_row("images", evil=1), "a row of the table images has the columns"),
    "another kind of value": (with_row("versions", number="1; DROP TABLE"), "versions.number is '1; DROP TABLE'"),
    "a missing value": (with_row("versions", author=None), "versions.author is 'None'"),
    "not finite": (with_row("versions", saved_at=float("nan")), "versions.saved_at is 'nan'"),
    "a version twice": (with_lines(lambda lines: [*lines[:3], lines[2], *lines[3:]]), "is not in its place"),
    "not JSON": (with_lines(lambda lines: [b"{]\n", *lines]), "a wrong line 1 in ledger.jsonl"),
    "deep JSON": (with_lines(lambda lines: [b"[" * 100_000 + b"\n", *lines]), "a wrong line 1 in ledger.jsonl"),
    "no manifest": (lambda m: {k: v for k, v in m.items() if k != "manifest.json"}, "is not an archive made by"),
    "a poor manifest": (lambda m: {**m, "manifest.json": b"{}"}, "has a manifest.json without"),
    "a newer format": (
        lambda m: {**m, "manifest.json": m["manifest.json"].replace(b'"format": 1', b'"format": 2')},
        "made by a newer LiverLoop",
    ),
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """An archive, and an empty store that must stay so."""
    folder = tmp_path_factory.mktemp("attacked")
    for seed, name in enumerate("ao"):
        add_image(folder / "source", name, seed)
    source = open_store(folder / "source")
    fill(source, folder / "scratch", ["a"], ["o"])
    export_archive(source, folder / "a.zip")
    source.close()
    target = open_store(folder / "target")
    yield folder / "a.zip", target
    target.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_or_damaged_archives_are_refused(attacked, tmp_path, attack):
    archive, target = attacked
    change, message = ATTACKS[attack]
    before = tables(target)
    everything = sorted(target.layout.studies.parent.rglob("*"))
    with pytest.raises(BadInputError, match=re.escape(message)):
        import_archive(target, rewritten(archive, tmp_path / "evil.zip", change))
    assert tables(target) == before
    assert sorted(target.layout.studies.parent.rglob("*")) == everything


def test_links_packed_again_and_twice_named_members_are_refused(attacked, tmp_path):
    archive, target = attacked
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}

    def written(path, compression=zipfile.ZIP_STORED, link=None, twice=None):
        with zipfile.ZipFile(path, "w", compression) as new:
            for name, content in members.items():
                entry = zipfile.ZipInfo(name)
                entry.compress_type = compression
                entry.external_attr = (0o120777 if name == link else 0o644) << 16
                new.writestr(entry, content)
            if twice:
                with pytest.warns(UserWarning, match="Duplicate name"):
                    new.writestr(twice, members[twice])
        return path

    name = first_version(members)
    with pytest.raises(BadInputError, match="which is a link or folder and not a file"):
        import_archive(target, written(tmp_path / "1.zip", link=name))
    with pytest.raises(BadInputError, match="compressed or encrypted; it was packed again by another program"):
        import_archive(target, written(tmp_path / "2.zip", zipfile.ZIP_DEFLATED))
    with pytest.raises(BadInputError, match=r"holds 'versions/.*' twice"):
        import_archive(target, written(tmp_path / "3.zip", twice=name))
    (tmp_path / "4.zip").write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(BadInputError, match=r"the archive 4\.zip is damaged or no archive"):
        import_archive(target, tmp_path / "4.zip")
    with pytest.raises(NotFoundError, match=r"there is no archive .*5\.zip"):
        import_archive(target, tmp_path / "5.zip")


def test_nobody_changes_between_training_and_validation_on_the_way(source, target, tmp_path):
    def salt_and_sides(store):
        with store.ledger.writing() as connection:
            return splits.salt_of(store.ledger, connection), splits.decided(connection)

    with source.ledger.writing() as connection:
        splits.salt_of(source.ledger, connection)
        splits.note(connection, {"k1": "training", "k2": "validation"})
    export_archive(source, tmp_path / "sides.zip")
    for _ in range(2):
        import_archive(target, tmp_path / "sides.zip")
        assert salt_and_sides(target) == salt_and_sides(source)
    with target.ledger.writing() as connection:
        splits.note(connection, {"k3": "training", "k1": "validation"})
        target.ledger.set_fact(connection, splits.SALT, "another")
    before = salt_and_sides(target)
    assert before[1] == {"k1": "training", "k2": "validation", "k3": "training"}  # once and for good
    import_archive(target, tmp_path / "sides.zip")
    assert salt_and_sides(target) == before
