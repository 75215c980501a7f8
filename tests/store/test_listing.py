import os
import random
from pathlib import Path

import pytest

from lib.errors import UnavailableError
from lib.store.listing import by_preference, chunks, named_files, printable, side_by_side, split_name, unfit_name
from lib.volume_io import IMAGE_SUFFIXES, LABEL_SUFFIXES, stem_of


@pytest.mark.parametrize("seed", range(20))
def test_side_by_side_pairs_every_name_once_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"n{number:03}" for number in range(60)]
    found = {name: f"file {name}" for name in names if rng.random() < 0.5}
    known = {name: f"row {name}" for name in names if rng.random() < 0.5}
    merged = list(side_by_side(sorted(found.items()), sorted(known.items())))
    assert merged == [(name, found.get(name), known.get(name)) for name in sorted({*found, *known})]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.seg.nrrd", "A.Nii.GZ", "b.seg.nii.gz", "ä.1.nii"])
def test_names_are_split_like_stems(name: str) -> None:
    split = split_name(name)
    assert split is not None
    assert split[0] == stem_of(name)
    assert "".join(split) == name


@pytest.mark.parametrize("name", ["a.txt", "a", "a.nii.bak", "nii", "datastore_v2.json", "a.nii.gz.part"])
def test_other_files_are_none_of_ours(name: str) -> None:
    assert split_name(name) is None


def test_names_come_sorted_by_code_point_without_hidden_ones(tmp_path: Path) -> None:
    for name in ["b.nii", "a-1.nii.gz", "a.nrrd", "a.nii.gz", "a.NII", "é.nii", "Z.nii", "._a.nii", ".writing-1-a.nii"]:
        (tmp_path / name).touch()
    (tmp_path / "a.seg.nrrd").touch()
    assert list(named_files(tmp_path, IMAGE_SUFFIXES)) == [
        ("Z", [".nii"]),
        ("a", [".nii.gz", ".NII", ".nrrd"]),
        ("a-1", [".nii.gz"]),
        ("b", [".nii"]),
        ("é", [".nii"]),
    ]
    assert dict(named_files(tmp_path, LABEL_SUFFIXES))["a"] == [".nii.gz", ".NII", ".nrrd", ".seg.nrrd"]


def test_the_written_spelling_comes_first() -> None:
    assert by_preference([".NII.GZ", ".nii", ".nii.gz"]) == [".nii.gz", ".NII.GZ", ".nii"]


def test_a_missing_folder_is_empty_but_an_unreadable_one_is_an_error(tmp_path: Path) -> None:
    assert list(named_files(tmp_path / "none", IMAGE_SUFFIXES)) == []
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match=r"the folder .*file can't be read: Not a directory; check"):
        list(named_files(tmp_path / "file", IMAGE_SUFFIXES))


def test_names_that_a_ledger_cannot_hold() -> None:
    broken = os.fsdecode(b"case_\xff")
    assert unfit_name("case_1", "image id") is None
    assert unfit_name(broken, "image id") == "its name is not UTF-8; rename it"
    assert "is not allowed" in str(unfit_name("a\\b", "image id"))
    assert printable(broken) == "case_\\udcff"


def test_chunks() -> None:
    assert list(chunks("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(chunks([], 2)) == []
