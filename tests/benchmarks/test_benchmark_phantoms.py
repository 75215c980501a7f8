import pytest

from lib.benchmarks import phantoms
from lib.benchmarks.phantoms import cache_folder, phantom_file
from lib.errors import BadInputError
from lib.volume_io import read_image


def test_rendered_once(tmp_path, monkeypatch):
    path = phantom_file(32, 3, tmp_path)
    image = read_image(path)
    assert image.shape == (32, 32, 3)
    assert image.axial().flags.f_contiguous or image.axial().shape == (3, 32, 32)
    monkeypatch.setattr(phantoms, "render", lambda *_: pytest.fail("rendered again"))
    assert phantom_file(32, 3, tmp_path) == path
    assert list(tmp_path.iterdir()) == [path]


def test_other_arguments_are_other_files(tmp_path):
    first = phantom_file(32, 3, tmp_path)
    assert len({first, phantom_file(32, 4, tmp_path), phantom_file(32, 3, tmp_path, (9, 4))}) == 3


def test_of_the_spacing_that_is_asked_for(tmp_path):
    assert read_image(phantom_file(32, 3, tmp_path, (9.5, 4))).axial_spacing == pytest.approx((4, 9.5, 9.5))


def test_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "liverloop"
    assert phantom_file(16, 1).parent == cache_folder()


def test_an_impossible_size(tmp_path):
    with pytest.raises(BadInputError, match="at least 16 x 16 x 1"):
        phantom_file(32, 0, tmp_path)
