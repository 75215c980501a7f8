import os
from dataclasses import replace

import numpy as np
import pytest

from lib.errors import BadInputError, NotFoundError, StorageError
from lib.training import cache as module
from lib.training.cache import open_cache, size_of
from lib.training.cases import CaseFiles
from lib.volume import Volume
from lib.volume_io import read_label, write_label


@pytest.fixture
def files(tmp_path, make_files):
    return [make_files(tmp_path / "studies", f"case_{number}", number) for number in range(3)]


@pytest.fixture
def opened(tmp_path):
    def opened(most=1e9, **options):
        return open_cache(tmp_path / "cache", 3, most, **options)

    return opened


@pytest.fixture
def decoded(monkeypatch):
    """Names of the cases that were decoded."""
    names = []
    original = module.decode_case

    def decode(files, *others):
        names.append(files.name)
        return original(files, *others)

    monkeypatch.setattr(module, "decode_case", decode)
    return names


def places(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_a_case_is_decoded_once(files, opened, decoded):
    with opened() as cache:
        assert not cache.holds(files[0])
        first = cache.case(files[0])
    with opened() as cache:
        assert cache.holds(files[0])
        again = cache.case(files[0])
        assert not cache.holds(files[1])
    assert decoded == ["case_0"]
    assert first.folder == again.folder
    np.testing.assert_array_equal(first.image[:], again.image[:])
    np.testing.assert_array_equal(first.gray_levels, again.gray_levels)


def test_a_renamed_case_is_found_and_a_corrected_one_is_decoded_anew(files, opened, decoded):
    with opened() as cache:
        cache.case(files[0])
        renamed = files[0].image.rename(files[0].image.with_name("other.nii.gz"))
        assert cache.case(replace(files[0], image=renamed)).name == "other"
        assert decoded == ["case_0"]
        label = read_label(files[1].label)
        cache.case(files[1])
        before = label.array.copy()
        before[4, 4, 5] = 2
        write_label(files[1].label, Volume(before, label.affine))
        corrected = cache.case(files[1])
    assert decoded == ["case_0", "case_1", "case_1"]
    assert (corrected.label[:] == 2).sum() == (before == 2).sum()


def test_other_classes_are_other_cases(files, tmp_path, decoded):
    for classes in (3, 4):
        with open_cache(tmp_path / "cache", classes, 1e9) as cache:
            assert cache.case(files[0]).presence.shape[1] == classes
    assert decoded == ["case_0", "case_0"]


def test_a_damaged_case_is_decoded_again(files, opened, decoded, caplog):
    with opened() as cache:
        place = cache.case(files[0]).folder
        (place / "label.npy").write_bytes(b"no array")
        case = cache.case(files[0])
    assert decoded == ["case_0", "case_0"]
    assert "case_0 is decoded again" in caplog.text
    np.testing.assert_array_equal(np.unique(case.label[:]), [0, 1, 2])


def test_the_longest_unused_go_where_it_grows_too_large(files, opened, tmp_path):
    with opened() as cache:
        folders = [cache.case(case).folder for case in files]
    for age, folder in zip((5, 900, 50), folders, strict=True):
        os.utime(folder / "case.json", (1e9 - age, 1e9 - age))
    size = size_of(tmp_path / "cache")
    with opened(size):
        pass
    assert len(places(tmp_path)) == 3
    with opened(size - 1):
        pass
    assert set(places(tmp_path)) == {folders[0].name, folders[2].name}
    with opened(1, keep=[files[2]]):
        pass
    assert places(tmp_path) == [folders[2].name]
    with opened(1):
        pass
    assert places(tmp_path) == []


def test_nothing_is_removed_while_another_training_uses_it(files, opened, tmp_path):
    with opened() as cache:
        case = cache.case(files[0])
        with opened(1):
            pass
        assert case.image[:].any()
    with opened(1):
        pass
    assert places(tmp_path) == []


def test_what_was_left_unfinished_is_removed(opened, tmp_path):
    (tmp_path / "cache" / "unfinished-x").mkdir(parents=True)
    (tmp_path / "cache" / "unfinished-x" / "image.npy").write_bytes(b"half")
    with opened():
        pass
    assert places(tmp_path) == []


def test_two_trainings_may_decode_the_same_case_at_once(files, opened, monkeypatch, tmp_path):
    original = module.decode_case

    def slow(case, *others):
        result = original(case, *others)
        monkeypatch.setattr(module, "decode_case", original)
        with opened() as other:
            other.case(case)
        return result

    monkeypatch.setattr(module, "decode_case", slow)
    with opened() as cache:
        case = cache.case(files[0])
        assert case.image[:].any()
    assert places(tmp_path) == [case.folder.name]


def test_a_case_that_can_not_be_decoded_leaves_nothing(files, opened, tmp_path):
    with opened() as cache:
        write_label(files[0].label, Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4)))
        with pytest.raises(BadInputError, match="do not lie on one grid"):
            cache.case(files[0])
        files[1].image.unlink()
        with pytest.raises(NotFoundError, match=r"case_1.nii.gz is gone$"):
            cache.case(files[1])
    assert places(tmp_path) == []


def test_a_disk_that_refuses_is_told(files, opened, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "decode_case", full)
    with (
        opened() as cache,
        pytest.raises(StorageError, match=r"^case_0 can't be decoded into .*cache: No space left on device$"),
    ):
        cache.case(files[0])


def test_more_than_allowed_is_refused(files, opened):
    with opened(70_000) as cache:
        cache.case(files[0])
        cache.check_size()
        cache.case(files[1])
        with pytest.raises(
            BadInputError, match=r"of this training take .* GB, and training.cache_gb allows 7e-05; raise"
        ):
            cache.check_size()


def test_a_cache_that_is_not_there_is_empty(tmp_path):
    assert size_of(tmp_path / "nowhere") == 0
    missing = CaseFiles(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    with open_cache(tmp_path / "cache", 3, 1) as cache, pytest.raises(NotFoundError):
        cache.holds(missing)


def test_a_label_that_is_replaced_while_it_is_read_is_not_kept_under_the_old_ones_name(files, opened, monkeypatch):
    original, first = module.decode_case, files[0].label.read_bytes()

    def replaced(case, *others):
        label = read_label(case.label)
        write_label(case.label, Volume(np.where(label.array == 2, np.uint8(1), label.array), label.affine))
        monkeypatch.setattr(module, "decode_case", original)
        return original(case, *others)

    with opened() as cache:
        assert not cache.holds(files[0])
        monkeypatch.setattr(module, "decode_case", replaced)
        assert not (cache.case(files[0]).label[:] == 2).any()
        files[0].label.write_bytes(first)
        assert (cache.case(files[0]).label[:] == 2).any()


def test_a_damaged_case_that_can_not_be_removed_is_not_used(files, opened, monkeypatch):
    with opened() as cache:
        place = cache.case(files[0]).folder
        (place / "label.npy").write_bytes(bytes(len((place / "label.npy").read_bytes())))
        remove = module.shutil.rmtree
        monkeypatch.setattr(module.shutil, "rmtree", lambda path, **how: path == place or remove(path, **how))
        with pytest.raises(BadInputError, match=r"label\.npy has changed"):
            cache.case(files[0])


def test_a_case_of_which_a_file_is_gone_hinders_no_other(files, opened):
    files[0].label.unlink()
    with opened(keep=files) as cache:
        assert cache.case(files[1]).image[:].any()
        with pytest.raises(NotFoundError, match="is gone"):
            cache.case(files[0])


def test_a_case_that_belongs_to_somebody_else_is_used(files, opened, monkeypatch, decoded):
    def refused(*_, **__):
        raise PermissionError

    with opened() as cache:
        cache.case(files[0])
        monkeypatch.setattr(os, "utime", refused)
        assert cache.case(files[0]).image[:].any()
    assert decoded == ["case_0"]
