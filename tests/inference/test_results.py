import os

import numpy as np
import pytest

from lib.inference.results import Kept, Key, Packed, Results, content_of
from lib.transforms.postprocessing import PostprocessingSettings

RNG = np.random.default_rng(0)
SIZE = 3000  # of what `result` makes


def key(content="a", version="1", postprocessing=None):
    return Key(content, version, postprocessing)


def result(size=SIZE, summary=None):
    """Something that takes so many bytes."""
    packed = Packed((2, 2, 2), "C", None, b"x" * (size - 2000))
    return Kept(packed, np.eye(4), (2, 2, 2), summary or {})


@pytest.fixture
def results():
    """Room for three."""
    made = Results(3 * SIZE)
    made.keep_only("1")
    return made


# ---- packing


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "array",
    [
        RNG.integers(0, 3, (7, 5, 4)),
        np.zeros((7, 5, 4)),
        np.pad(RNG.integers(0, 3, (2, 3, 1)), ((4, 1), (0, 2), (3, 0))),
        np.full((1, 1, 1), 2),
        np.eye(6)[None] * 255,
    ],
    ids=["everywhere", "nothing", "in a box", "one voxel", "one slice"],
)
def test_what_is_packed_comes_back(array, order):
    array = np.asarray(array.astype(np.uint8), order=order)
    back = Packed.of(array).unpacked()
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, array)
    assert back.flags.f_contiguous == array.flags.f_contiguous
    assert back.flags.c_contiguous == array.flags.c_contiguous
    back[:] = 9  # it belongs to who asked for it


def test_views_in_any_direction_can_be_packed():
    array = RNG.integers(0, 3, (7, 5, 4)).astype(np.uint8)
    for view in (array[::-1], array.transpose(1, 2, 0), array[:, ::-1, 1:], np.broadcast_to(array[:1], (7, 5, 4))):
        np.testing.assert_array_equal(Packed.of(view).unpacked(), view)


def test_a_label_takes_little_memory():
    z, y, x = np.ogrid[:40, :256, :256]
    liver = ((z - 20) / 15) ** 2 + ((y - 120) / 60) ** 2 + ((x - 90) / 70) ** 2 < 1
    label = liver.astype(np.uint8)
    label[18:22, 110:130, 80:100] = 2
    assert len(Packed.of(label).content) * 50 < label.size


# ---- which content


def test_content_is_told_by_what_changes_with_it(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"one")
    first = content_of(path)
    assert first == content_of(str(path))
    replaced = tmp_path / "new"
    replaced.write_bytes(b"two")  # as many bytes, and then the same times
    state = path.stat()
    os.utime(replaced, ns=(state.st_atime_ns, state.st_mtime_ns))
    replaced.replace(path)
    second = content_of(path)
    assert second != first
    path.write_bytes(b"three")
    assert content_of(path) != second
    assert content_of(tmp_path / "nothing") is None


def test_a_series_changes_with_each_of_its_files(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("b", "a", "more/c"):
        (tmp_path / name).write_bytes(b"x")
    before = content_of(tmp_path)
    assert content_of(tmp_path) == before
    (tmp_path / "more" / "c").write_bytes(b"yy")
    changed = content_of(tmp_path)
    assert changed != before
    (tmp_path / "a").unlink()
    assert content_of(tmp_path) not in (before, changed)


# ---- keeping


def test_a_result_is_found_by_all_that_it_depends_on(results):
    kept = result()
    results.put(key(), kept)
    assert results.get(key()) is kept
    steps = PostprocessingSettings()
    for other in (key("b"), key(version="2"), key(postprocessing=steps)):
        assert results.get(other) is None
    results.put(key(postprocessing=steps), result())
    assert results.get(key(postprocessing=PostprocessingSettings())) is not None  # equal, not the same
    assert results.get(key(postprocessing=steps.changed({"fill_holes": False}))) is None


def test_those_unused_for_longest_are_dropped_first(results):
    for content in "abc":
        results.put(key(content), result())
    results.get(key("a"))
    results.put(key("d"), result())
    assert [bool(results.get(key(content))) for content in "abcd"] == [True, False, True, True]
    results.put(key("e"), result(2 * SIZE))
    assert len(results) == 2
    assert results.bytes == 3 * SIZE


def test_what_is_put_twice_counts_once(results):
    for size in (SIZE, 2 * SIZE, SIZE):
        results.put(key(), result(size))
        assert results.bytes == size
    assert len(results) == 1


def test_what_is_too_large_or_of_unknown_content_is_not_kept(results):
    results.put(key("a"), result())
    results.put(key("b"), result(4 * SIZE))
    results.put(key(None), result())
    assert [len(results), results.bytes] == [1, SIZE]
    nothing = Results(0)
    nothing.keep_only("1")
    nothing.put(key(), result())
    assert len(nothing) == 0


def test_another_version_takes_the_place_of_all(results):
    results.put(key(), result())
    results.keep_only("1")
    assert len(results) == 1
    results.keep_only("2")
    assert [len(results), results.bytes] == [0, 0]
    results.put(key(), result())  # made with the old model by a request that began before
    assert results.get(key()) is None
    results.put(key(version="2"), result())
    assert results.get(key(version="2")) is not None


def test_nothing_is_kept_before_a_version_is_known():
    results = Results(3 * SIZE)
    results.put(key(), result())
    assert len(results) == 0
