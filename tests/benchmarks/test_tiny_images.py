import os
import shutil
from collections import namedtuple

import numpy as np
import pytest

from lib.benchmarks import tiny_images
from lib.benchmarks.tiny_images import forget, grid, is_ours, label, make_images
from lib.errors import BadInputError, StorageError
from lib.settings import Settings
from lib.store.door import checked_label
from lib.volume_io import read_image, write_label


def images_in(folder):
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def test_readable_images_no_two_alike(tmp_path):
    made = []
    make_images(tmp_path / "new", 1_003, made.append)
    paths = images_in(tmp_path / "new")
    assert len(paths) == sum(made) == 1_003
    assert len({path.read_bytes() for path in paths}) == 1_003
    for path in (paths[0], paths[1_000], paths[-1]):
        image = read_image(path)
        assert image.shape == grid().shape
        np.testing.assert_allclose(image.affine, grid().affine, atol=1e-6)


def test_the_label_fits_them(tmp_path):
    write_label(tmp_path / "label.nii.gz", label())
    settings = Settings()
    checked = checked_label(tmp_path / "label.nii.gz", grid(), None, settings.labels, 0.01)
    assert set(np.unique(checked.array)) == {0, 1, 2}


def test_made_again_only_what_is_missing_is_made(tmp_path):
    folder = tmp_path / "new"
    make_images(folder, 5, lambda _: None)
    before = {path: path.stat().st_ino for path in images_in(folder)}
    next(iter(before)).unlink()
    (folder / "labels" / "final").mkdir(parents=True)
    (folder / "datastore_v2.json").touch()
    make_images(folder, 5, lambda _: None)
    after = {path: path.stat().st_ino for path in images_in(folder)}
    assert after.keys() == before.keys()
    assert sum(after[path] == inode for path, inode in before.items()) >= 4


def test_all_that_stores_noted_is_forgotten(tmp_path):
    make_images(tmp_path / "new", 2, lambda _: None)
    before = images_in(tmp_path / "new")
    for name in ("labels/final", "ledger"):
        (tmp_path / "new" / name).mkdir(parents=True)
    for name in ("datastore_v2.json", ".lock", "labels/final/case_00000000.nii.gz"):
        (tmp_path / "new" / name).touch()
    forget(tmp_path / "new")
    assert images_in(tmp_path / "new") == before
    assert is_ours(tmp_path / "new")
    assert len(os.listdir(tmp_path / "new")) == len(before) + 1


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.nii.gz").touch()
    with pytest.raises(
        BadInputError, match=r"was not made by this benchmark and is not empty; choose another --folder"
    ):
        make_images(tmp_path, 5, lambda _: None)
    assert (tmp_path / "labels" / "a.nii.gz").exists()


def test_more_images_than_asked_for(tmp_path):
    make_images(tmp_path, 3, lambda _: None)
    with pytest.raises(BadInputError, match="holds 3 images instead of 2; remove it"):
        make_images(tmp_path, 2, lambda _: None)


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 1_000, 1_000)
    monkeypatch.setattr(tiny_images.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"1000000 images take about 5.0 GB, the disk of .* has 0.0 GB left"):
        make_images(tmp_path / "new", 1_000_000, lambda _: None)
    assert shutil.disk_usage(tmp_path) == usage
