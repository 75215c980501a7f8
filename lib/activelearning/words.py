"""What a model shows of a case, in words for who is to label it."""

from collections.abc import Sequence

from lib.case_scores import CaseScores, Span


def where_to_look(scores: CaseScores) -> str:
    """Such as "tumor uncertain on slices 41-48 and 60-63, liver on 90-95, 2 lesion candidates"; empty if nothing is.

    Slices are counted as `lib.looked_at` does, 0 nearest the feet.
    """
    labels = list(dict.fromkeys(span.label for span in scores.spans))
    parts = [f"{label} {_ranges([span for span in scores.spans if span.label == label])}" for label in labels]
    if parts:
        label, _, ranges = parts[0].rpartition(" on ")
        parts[0] = f"{label} uncertain on slices {ranges}"
    if scores.lesions:
        parts.append("1 lesion candidate" if scores.lesions == 1 else f"{scores.lesions} lesion candidates")
    return ", ".join(parts)


def _ranges(spans: Sequence[Span]) -> str:
    ordered = sorted((span.first, span.last) for span in spans)
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ordered]
    return "on " + (texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}")
