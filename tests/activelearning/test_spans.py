from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.activelearning.spans import LEAST_SLICES, MOST_SPANS, find_spans
from lib.case_scores import Span

SERIES = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


def ends(spans):
    return [(span.label, span.first, span.last) for span in spans]


@settings(max_examples=50)
@given(values=st.dictionaries(st.sampled_from(["liver", "tumor"]), SERIES, min_size=1), first=st.integers(0, 500))
def test_spans_lie_in_the_case_do_not_overlap_and_hold_shares_of_it(values, first):
    spans = find_spans(values, first)
    density = [span.share / (span.last - span.first + 1) for span in spans]
    assert density == sorted(density, reverse=True)
    for label, series in values.items():
        of = sorted((span for span in spans if span.label == label), key=lambda span: span.first)
        assert len(of) <= MOST_SPANS
        assert sum(span.share for span in of) <= 1 + 1e-9
        for span in of:
            assert first <= span.first <= span.last < first + len(series)
            assert span.last - span.first + 1 >= min(LEAST_SLICES, len(series))
            expected = sum(series[span.first - first : span.last - first + 1]) / sum(series)
            assert span.share == pytest.approx(min(1, expected))
        for one, other in pairwise(of):
            assert other.first > one.last + 2  # else they were one


def test_one_place():
    assert find_spans({"tumor": [0, 0, 0, 1, 2, 3, 2, 0, 0, 0]}, 40) == (Span("tumor", 44, 46, 0.875),)


def test_a_gap_of_one_slice_does_not_part_a_span_and_one_of_two_does():
    assert ends(find_spans({"liver": [0, 0, 6, 5, 5, 0, 5, 6, 6, 0, 0]})) == [("liver", 2, 8)]
    assert ends(find_spans({"liver": [9, 9, 9, 0, 0, 9, 9, 9]})) == [("liver", 0, 2), ("liver", 5, 7)]


def test_a_single_slice_gets_neighbors_on_the_side_with_more():
    assert ends(find_spans({"liver": [0, 0, 9, 1, 0.5, 0]})) == [("liver", 2, 4)]
    assert ends(find_spans({"liver": [9, 0, 0, 0]})) == [("liver", 0, 2)]
    assert ends(find_spans({"liver": [0, 0, 0, 9]})) == [("liver", 1, 3)]
    assert ends(find_spans({"liver": [1, 9]})) == [("liver", 0, 1)]


def test_what_is_more_concentrated_comes_first():
    values = {"liver": np.ones(40).tolist(), "tumor": [0] * 20 + [0.1] * 4 + [0] * 16}
    assert ends(find_spans(values)) == [("tumor", 20, 22), ("liver", 0, 23)]


def test_a_class_that_is_certain_throughout_has_none():
    assert find_spans({"liver": [0, 0, 0], "tumor": []}) == ()
    assert ends(find_spans({"liver": [100, 100, 100], "tumor": [0, 0.2, 0]})) == [("liver", 0, 2)]


def test_many_places_are_cut_to_the_most_uncertain():
    series = [0.0] * 60
    for place in (5, 15, 25, 35, 45, 55):
        series[place] = 100 + place
    spans = find_spans({"liver": series})
    assert ends(spans) == [("liver", 54, 56), ("liver", 44, 46), ("liver", 34, 36)]
    assert [span.share for span in spans] == pytest.approx([155 / 780, 145 / 780, 135 / 780])
