import pytest

from lib.activelearning.words import where_to_look
from lib.case_scores import CaseScores, Span


@pytest.mark.parametrize(
    ("spans", "lesions", "text"),
    [
        ((), 0, ""),
        ((), 1, "1 lesion candidate"),
        ((Span("tumor", 41, 48, 0.9),), 0, "tumor uncertain on slices 41-48"),
        ((Span("tumor", 7, 7, 0.9), Span("tumor", 2, 4, 0.1)), 2, "tumor uncertain on slices 2-4 and 7, 2 lesion candidates"),
        (
            (Span("liver", 3, 5, 0.5), Span("tumor", 8, 9, 0.3), Span("liver", 12, 14, 0.1), Span("liver", 9, 9, 0.1)),
            0,
            "liver uncertain on slices 3-5, 9 and 12-14, tumor on 8-9",
        ),
        ((Span("on call", 1, 2, 0.5),), 0, "on call uncertain on slices 1-2"),
    ],
)  # fmt: skip
def test_where_to_look(spans, lesions, text):
    assert where_to_look(CaseScores(entropy=0.1, classes={}, spans=spans, lesions=lesions)) == text
