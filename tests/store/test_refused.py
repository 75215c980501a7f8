import json

import pytest

from lib.errors import BadInputError
from lib.store import refused
from lib.store.layout import Layout


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path)


def sent(tmp_path, name, content=b"sent"):
    path = tmp_path / "inbox" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("x.nii.gz", ".nii.gz"),
        ("x.seg.nrrd", ".seg.nrrd"),
        ("x.1.dcm", ".dcm"),
        ("x", ".bin"),
        ("x.json", ".bin"),  # .json is the reason's
        ("x.JSON", ".bin"),
        ("x.a strange one", ".bin"),
    ],
)
def test_what_was_sent_and_its_reason_lie_beside_each_other(layout, tmp_path, name, suffix):
    path = sent(tmp_path, name)
    copy = refused.keep_copy(layout, "a", "final", path, "it is empty", "ann")
    moved = refused.set_aside(layout, "a", None, path, "it is odd", "server")
    assert not path.exists()
    for kept in (copy, moved):
        assert kept.read_bytes() == b"sent"
        assert kept.name.endswith(suffix)
        assert json.loads(refused.reason_path(kept).read_text())["file"] == kept.name
    assert len(list(layout.refused("a").iterdir())) == 4
    first, second = refused.listed(layout)
    assert (first.image_id, first.tag, first.sent_by, first.reason) == ("a", "final", "ann", "it is empty")
    assert (second.tag, second.reason) == (None, "it is odd")
    assert layout.studies / first.file == copy


def test_a_lost_or_damaged_reason_is_none(layout, tmp_path):
    kept = refused.keep_copy(layout, "a", "final", sent(tmp_path, "x.nii"), "why", "ann")
    for damaged in ("{", "[]", None):
        refused.reason_path(kept).unlink() if damaged is None else refused.reason_path(kept).write_text(damaged)
        assert [one.reason for one in refused.listed(layout, "a")] == [None]
    refused.write_reason(kept, "a", None, refused.NO_REASON, "server", None)
    assert [(one.reason, one.at) for one in refused.listed(layout, "a")] == [("the reason was lost", None)]


def test_of_one_image_or_of_all(layout, tmp_path):
    for image_id in ("b", "a"):
        refused.keep_copy(layout, image_id, "final", sent(tmp_path, "x.nii"), "why", "ann")
    assert [one.image_id for one in refused.listed(layout)] == ["a", "b"]
    assert [one.image_id for one in refused.listed(layout, "b")] == ["b"]
    assert list(refused.listed(layout, "c")) == []
    with pytest.raises(BadInputError, match="image id"):
        list(refused.listed(layout, "../a"))
