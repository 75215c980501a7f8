"""What clients call a segment, and what becomes of it."""

import numpy as np
import pytest
from pydantic import ValidationError

from lib.errors import BadInputError
from lib.labels import (
    DEFAULT_LABELS,
    NOT_LOOKED_AT,
    Label,
    find_index,
    indices,
    is_marker,
    marked,
    merge,
    names_for_clients,
    remap,
)  # fmt: skip


def painted(*values):
    """A label volume that holds each value twice, and background."""
    return np.array([[[0, *values], [0, *values]]], np.uint8)


def info(**names):
    """`label_info` as 3D Slicer sends it."""
    return [{"name": name, "idx": index} for name, index in names.items()]


def named(*entries):
    return [{"name": name, "idx": index} for name, index in entries]


def refused(array, label_info, labels=DEFAULT_LABELS):
    with pytest.raises(BadInputError) as caught:
        remap(array, label_info, labels)
    return str(caught.value)


def test_indices_are_in_index_order():
    assert list(indices({"tumor": Label(index=2), "liver": Label(index=1)}).items()) == [("liver", 1), ("tumor", 2)]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("liver", 1),
        ("Liver", 1),
        ("  LIVER ", 1),
        ("liver_parenchyma", 1),
        ("Hígado", 1),
        ("hi\u0301gado", 1),  # the accent as a character of its own, as macOS writes it
        ("tumor", 2),
        ("Tumour", 2),
        ("liver tumor", 2),
        ("liver_tumour", 2),
        ("Liver-Tumor", 2),
        ("hepatic  lesions", None),
        ("hepatic  lesion", 2),
        ("spleen", None),
        ("liver2", None),
        ("", None),
    ],
)
def test_spellings(name, index):
    assert find_index(name, DEFAULT_LABELS) == index


def test_a_site_can_add_spellings():
    labels = {**DEFAULT_LABELS, "liver": Label(index=1, aliases=("Leber links",))}
    assert find_index("leber_LINKS", labels) == 1
    assert find_index("hepar", labels) is None


@pytest.mark.parametrize("index", [0, 255, -1])
def test_indices_outside_of_a_byte_are_refused(index):
    with pytest.raises(ValidationError):
        Label(index=index)


@pytest.mark.parametrize(
    ("values", "label_info", "expected"),
    [
        pytest.param((1, 2), info(liver=1, tumor=2), (1, 2), id="as we number them"),
        pytest.param((1, 2), named(("Liver", 1), ("liver tumor", 2)), (1, 2), id="other spellings"),
        pytest.param((1, 2), info(tumor=1, liver=2), (2, 1), id="reordered"),
        pytest.param((1, 2), info(tumor=2, liver=1), (1, 2), id="idx decides where it does not increase"),
        pytest.param((1,), info(tumor=1), (2,), id="tumor only"),
        pytest.param((1,), info(tumor=2), (2,), id="tumor only, Slicer counted a segment that it left out"),
        pytest.param((1, 2), info(liver=2, tumor=3), (1, 2), id="Slicer left out the background"),
        pytest.param((1, 2), info(tumor=2, liver=5), (2, 1), id="Slicer left out several"),
        pytest.param((2,), info(tumor=2), (2,), id="idx is the value"),
        pytest.param((5, 9), info(liver=5, tumor=9), (1, 2), id="large idx are the values"),
        pytest.param((1, 3), info(liver=1, tumor=3), (1, 2), id="a gap in the values"),
        pytest.param((1,), info(liver=1, tumor=2), (1,), id="a class that nobody painted"),
        pytest.param((1, 3), info(liver=1, spleen=2, tumor=3), (1, 2), id="an extra segment without voxels"),
        pytest.param(
            (1, 2, 3), named(("liver", 1), ("foreground_scribbles", 2), ("tumor", 3)), (1, 0, 2), id="scribbles"
        ),
        pytest.param((1, 2), named(("Background", 1), ("liver", 2)), (0, 1), id="background as a segment"),
        pytest.param((1, 2), named(("tumor", 1), ("lesion", 2)), (2, 2), id="two segments of one class"),
        pytest.param((1, 2), [{"name": "tumor"}, {"name": "liver"}], (2, 1), id="without idx: the place in the list"),
        pytest.param((1, 2), named(("tumor", "1"), ("liver", "2")), (2, 1), id="idx as text"),
        pytest.param((1, 2), named(("background", 0), ("liver", 1), ("tumor", 2)), (1, 2), id="background as value 0"),
        pytest.param((2,), named(("background", 0), ("liver", 1), ("tumor", 2)), (2,), id="the same, tumor only"),
        pytest.param((1, 2), info(liver=3, tumor=4), (1, 2), id="Slicer left out scribbles before"),
        pytest.param((2,), info(liver=1, tumor=4), (2,), id="Slicer left out scribbles between, no liver painted"),
        pytest.param((1,), info(liver=2, tumor=3), (1,), id="Slicer left out one before, no tumor painted"),
        pytest.param((3,), info(liver=2, tumor=3), (2,), id="idx is the value, no liver painted"),
        pytest.param((), info(spleen=1), (), id="nothing painted"),
        pytest.param((1, 2), None, (1, 2), id="no names: our indices"),
        pytest.param((2,), [], (2,), id="empty names: our indices"),
    ],
)
def test_remap(values, label_info, expected):
    array = painted(*values)
    before = array.copy()
    result = remap(array, label_info, DEFAULT_LABELS)
    np.testing.assert_array_equal(result, painted(*expected))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(array, before)


def test_remap_keeps_fortran_order():
    assert remap(np.asfortranarray(painted(1, 2)), info(tumor=1, liver=2), DEFAULT_LABELS).flags.f_contiguous


def test_an_unknown_name_is_refused_by_name():
    assert refused(painted(1, 2), info(liver=1, spleen=2)) == (
        "the segment 'spleen' is not one of ['liver', 'tumor'] nor a known spelling of them; rename or remove it, or "
        "add it to the aliases in app.yaml"
    )


def test_a_value_without_a_name_is_refused():
    assert refused(painted(1, 3), info(liver=1, tumor=2)) == (
        "the label holds the value 3, which label_info {1: 'liver', 2: 'tumor'} does not name; add its name"
    )


def test_what_can_be_read_in_two_ways_is_not_guessed():
    assert refused(painted(2), info(liver=2, tumor=3)) == (
        "the value 2 is 'liver' by idx but 'tumor' by its place in label_info {2: 'liver', 3: 'tumor'}; number the "
        "segments from 1 without gaps, or remove those that are empty"
    )


def test_unknown_values_without_names_are_refused():
    assert refused(painted(1, 3, 7), None) == (
        "the label holds the values [3, 7], but only {'liver': 1, 'tumor': 2} are known and no label_info names them; "
        "send label_info with a name for each value"
    )


@pytest.mark.parametrize(
    "label_info",
    [
        "liver",
        ["liver"],
        {"liver": 1},
        5,
        [{"idx": 1}],
        [{"name": "liver", "idx": None}],
        [{"name": "a", "idx": "x"}],
        [None],
    ],
)
def test_malformed_label_info_is_shown(label_info):
    text = refused(painted(1), label_info)
    assert text == f"label_info must be a list of objects with 'name' and 'idx', not {label_info!r}"


def test_one_idx_for_two_segments_is_refused():
    assert refused(painted(1), named(("liver", 1), ("tumor", 1))) == (
        "label_info gives one idx to several segments: [('liver', 1), ('tumor', 1)]"
    )


def test_messages_stay_short_whatever_is_sent():
    assert len(refused(painted(1), ["x" * 10_000])) < 400
    assert len(refused(painted(1), info(**{"x" * 10_000: 1}))) < 500


def test_merge_gives_the_larger_index_where_segments_overlap():
    liver, tumor = np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 3), np.uint8)
    liver[:2], tumor[1, 1] = 1, 1
    for segments in ([("Liver", liver), ("Tumour", tumor)], [("Tumour", tumor), ("Liver", liver)]):
        result = merge(segments, liver.shape, DEFAULT_LABELS)
        assert (result[tumor == 1] == 2).all()
        assert (result[(liver == 1) & (tumor == 0)] == 1).all()
        assert not result[2].any()


def test_merge_knows_names_as_remap_does():
    mask, nothing = np.ones((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)
    assert merge([("spleen", nothing)], mask.shape, DEFAULT_LABELS).max() == 0
    assert merge([("background scribbles", mask)], mask.shape, DEFAULT_LABELS).max() == 0
    with pytest.raises(BadInputError, match=r"^the segment 'spleen' is not one of \['liver', 'tumor'\]"):
        merge([("spleen", mask)], mask.shape, DEFAULT_LABELS)


# What nobody looked at


@pytest.mark.parametrize("name", ["not looked at", "Not Looked_At", "not-reviewed", "Unreviewed", "ignore"])
def test_names_for_what_nobody_looked_at(name):
    result = remap(painted(1, 2), named(("liver", 1), (name, 2)), DEFAULT_LABELS)
    np.testing.assert_array_equal(result, painted(1, NOT_LOOKED_AT))
    assert not is_marker(name)


@pytest.mark.parametrize("name", ["looked at", "Looked_at", "Reviewed", "reviewed slices", "slices looked at"])
def test_a_marker_is_nothing_itself_and_tells_where_it_is(name):
    array, names = painted(1, 2, 3), named(("liver", 1), (name, 2), ("tumor", 3))
    np.testing.assert_array_equal(remap(array, names, DEFAULT_LABELS), painted(1, 0, 2))
    np.testing.assert_array_equal(marked(array, names), array == 2)
    assert is_marker(name)


def test_a_marker_is_found_by_order_as_classes_are():
    array = painted(1, 3)  # 3D Slicer left a segment out before these three, and nobody painted the tumor
    names = named(("liver", 2), ("tumor", 3), ("looked at", 4))
    np.testing.assert_array_equal(remap(array, names, DEFAULT_LABELS), painted(1, 0))
    np.testing.assert_array_equal(marked(array, names), array == 3)


def test_a_label_without_a_marker_has_no_marked_voxels():
    assert marked(painted(1), None) is None
    assert marked(painted(1), info(liver=1)) is None
    assert not marked(painted(1), named(("liver", 1), ("looked at", 2))).any()


def test_without_names_255_is_what_nobody_looked_at():
    np.testing.assert_array_equal(remap(painted(1, 255), None, DEFAULT_LABELS), painted(1, 255))


@pytest.mark.parametrize("values", [(1, 2, 255), (1, 255), (2, 255), (255,), (1, 2)])
def test_the_names_that_clients_get_mean_the_same_when_they_come_back(values):
    names = names_for_clients(indices(DEFAULT_LABELS), partly=True)
    assert names == [*info(liver=1, tumor=2), {"name": "not looked at", "idx": 255}]
    np.testing.assert_array_equal(remap(painted(*values), names, DEFAULT_LABELS), painted(*values))
    assert names_for_clients(indices(DEFAULT_LABELS), partly=False) == info(liver=1, tumor=2)


def test_a_mask_of_255_that_no_name_tells_is_refused():
    assert refused(painted(1, 255), info(liver=1, tumor=2)).startswith("the label holds the value 255, which ")


def test_merge_keeps_what_lies_under_a_marker():
    liver, marker, unseen = (np.zeros((3, 3, 3), np.uint8) for _ in range(3))
    liver[:2], marker[1], unseen[2] = 1, 1, 1
    result = merge([("looked at", marker), ("liver", liver), ("not looked at", unseen)], liver.shape, DEFAULT_LABELS)
    assert (result[:2] == 1).all()
    assert (result[2] == NOT_LOOKED_AT).all()
