"""Scores in words for an annotator: where to look first, and what to beware of."""

from collections.abc import Sequence

from lib.activelearning.quality import SENTENCES
from lib.case_scores import CaseScores, Span

_MOST_SPANS = 2  # of one class; more are no help
_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def sentences(scores: CaseScores) -> tuple[str, ...]:
    """What a model's scores say to whoever looks at the image next.

    Slices are axial, 0 nearest the feet.

    Example:
        >>> spans = (Span("tumor", 41, 48, 0.8),)
        >>> sentences(CaseScores(0.1, {"tumor": 0.1}, ml={"tumor": 3.0}, lesions=2, spans=spans))
        ('tumor border uncertain on slices 41-48, two lesion candidates',)
    """
    labels = dict.fromkeys(span.label for span in scores.spans)
    parts = [_place(label, scores, [span for span in scores.spans if span.label == label]) for label in labels]
    if scores.lesions:
        count = _COUNTS[scores.lesions] if scores.lesions < len(_COUNTS) else str(scores.lesions)
        parts.append(f"{count} lesion candidate{'' if scores.lesions == 1 else 's'}")
    first = (", ".join(parts),) if parts else ()
    # A version of LiverLoop to come may have noted flags that this one does not know.
    return first + tuple(SENTENCES.get(flag, flag.replace("_", " ")) for flag in scores.flags)


def _place(label: str, scores: CaseScores, spans: Sequence[Span]) -> str:
    ranges = [
        f"{span.first}-{span.last}" if span.last > span.first else f"{span.first}"
        for span in sorted(spans[:_MOST_SPANS], key=lambda span: span.first)
    ]
    one = len(ranges) == 1 and "-" not in ranges[0]
    where = f"on slice{'' if one else 's'} {' and '.join(ranges)}"
    found = scores.ml.get(label, 0.0) > 0
    return f"{label} border uncertain {where}" if found else f"perhaps {label} {where}"
