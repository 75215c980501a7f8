"""Slicer's segment fields."""

import pytest

from lib.labels import DEFAULT_LABELS, Label
from lib.segments import Segment, find_segments, segment_fields


def test_labels_share_one_layer_by_their_index():
    fields = segment_fields((4, 5, 6), DEFAULT_LABELS)
    assert find_segments(fields) == [Segment("liver", 0, 1), Segment("tumor", 0, 2)]
    assert fields["Segment1_Extent"] == "0 3 0 4 0 5"
    assert fields["Segment0_Color"] == "0.866667 0.509804 0.396078"


def test_layered_labels_have_a_layer_each():
    fields = segment_fields((4, 5, 6), DEFAULT_LABELS, layered=True)
    assert find_segments(fields) == [Segment("liver", 0, 1), Segment("tumor", 1, 1)]


def test_segments_are_in_index_order_whatever_the_order_of_the_labels():
    labels = {"tumor": Label(index=2), "liver": Label(index=1)}
    assert [segment.name for segment in find_segments(segment_fields((1, 1, 1), labels))] == ["liver", "tumor"]


def test_a_header_without_segments_has_none():
    assert find_segments({"sizes": [1, 2, 3]}) == []


def test_missing_layer_and_value_are_those_of_the_first_versions_of_the_format():
    assert find_segments({"Segment0_Name": "Liver"}) == [Segment("Liver", 0, 1)]
    with pytest.raises(ValueError, match="invalid literal"):
        find_segments({"Segment0_Name": "Liver", "Segment0_Layer": "first"})
