"""What an archive holds; coming back from it is told in test_archive_import.py."""

import json
import zipfile

import pytest

from lib.errors import BadInputError
from lib.store.archive import export_archive
from lib.store.archive_reader import ArchiveReader
from tests.store.filled import add_image, fill, label_file, open_store


@pytest.fixture
def store(tmp_path, ledger_url):
    for seed, name in enumerate("abo"):
        add_image(tmp_path / "studies", name, seed)
    opened = open_store(tmp_path / "studies", ledger_url)
    fill(opened, tmp_path / "scratch", ["a", "b"], ["o"])
    yield opened
    opened.close()


def test_holds_all_rows_and_files(store, tmp_path):
    label_file(store.layout.shown("o", "waits"), 1)
    store.look()
    seen = []
    exported = export_archive(store, tmp_path / "a.zip", seen.append)
    assert exported.counts == {
        "images": 3, "versions": 6, "labels": 5, "presegmentations": 1, "leases": 1, "events": 2, "files": 6,
    }  # fmt: skip
    assert seen == list(range(1, exported.files + 1))
    assert (exported.missing, exported.size) == ((), (tmp_path / "a.zip").stat().st_size)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        manifest = json.loads(archive.read("manifest.json"))
        lines = [json.loads(line) for line in archive.read("ledger.jsonl").splitlines()]
        names = archive.namelist()
        for line in lines:
            if line["table"] == "versions":
                path = store.layout.versions / line["row"]["file"]
                assert archive.read(f"versions/{line['row']['file']}") == path.read_bytes()
    assert manifest["studies_id"] == store.layout.studies_id()
    assert manifest["rows"] == exported.counts
    tables = [line["table"] for line in lines]
    assert tables[:5] == ["images", "versions", "versions", "versions", "labels"]
    assert tables[-7:] == ["events", *["files"] * 6]
    assert {name.partition("/")[0] for name in names} == {
        "manifest.json", "ledger.jsonl", "versions", "presegmentations", "refused", "labels",
    }  # fmt: skip
    assert "labels/waits/o.nii.gz" in names
    with ArchiveReader(tmp_path / "a.zip") as reader:
        reader.verify()
        assert [group.image_id for group in reader.groups()] == ["a", "b", "o"]


def test_a_damaged_version_is_left_out_and_listed(store, tmp_path):
    lost, damaged = (store.labels.path(store.labels.history(name, "final")[1]) for name in "ab")
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    exported = export_archive(store, tmp_path / "a.zip")
    assert sorted(exported.missing) == sorted(
        f"versions/{path.relative_to(store.layout.versions).as_posix()}" for path in (lost, damaged)
    )
    with ArchiveReader(tmp_path / "a.zip") as reader:
        reader.verify()
        assert not reader.has(exported.missing[0])


def test_an_archive_is_never_overwritten(store, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"an older backup")
    with pytest.raises(BadInputError, match=r"there is already .*a\.zip; name another file"):
        export_archive(store, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == b"an older backup"
