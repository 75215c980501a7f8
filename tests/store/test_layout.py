"""Where things lie, and that no name leads out of it."""

import pytest

from lib.errors import BadInputError
from lib.store.layout import Layout, checked_tag


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path)


@pytest.mark.parametrize("name", ["../a", "a/b", ".hidden", "", "a\\b", "a\x00b", "x" * 241])
def test_no_name_leads_out_of_the_folder(layout, name):
    for path in (
        lambda: layout.image(name, ".nii.gz"),
        lambda: layout.tag(name),
        lambda: layout.shown(name, "final"),
        lambda: layout.shown("a", name),
        lambda: layout.refused(name),
    ):
        with pytest.raises(BadInputError, match="is not allowed"):
            path()


def test_the_folder_of_refused_labels_is_no_tag():
    with pytest.raises(
        BadInputError, match=r"^label tag 'refused' is the folder of refused labels; choose another tag$"
    ):
        checked_tag("refused")


def test_labels_of_one_image_are_found_in_every_format_and_no_others(layout):
    folder = layout.tag("final")
    folder.mkdir(parents=True)
    for name in ("a.nii.gz", "a.nrrd", "a.seg.nrrd", "a.b.nii.gz", "ab.nii.gz", "a.png"):
        (folder / name).write_bytes(b"x")
    assert {path.name for path in layout.shown_files("a", "final")} == {"a.nii.gz", "a.nrrd", "a.seg.nrrd"}
    assert {path.name for path in layout.shown_files("a.b", "final")} == {"a.b.nii.gz"}
    assert layout.shown_files("a", "original") == []


def test_a_folder_keeps_its_id(layout, tmp_path):
    first = layout.studies_id()
    assert Layout(tmp_path).studies_id() == first
    assert Layout(tmp_path / "other").studies_id() != first
