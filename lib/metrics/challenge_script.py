"""Lesion detection with the slip that the published LiTS scoring program has, for comparison with its numbers only.

To get a pair's union, the program looks for the *predicted* lesion's number in a mask that already holds the
*reference* lesions' numbers. Where the two happen to differ, the union is that of the reference lesion with another
pair's prediction, or with nothing. The result depends on the order in which lesions are numbered: where a prediction is
perfect but for the first lesion, most of the others can come out undetected. The scores under the challenge's own names
use the true union; what is computed here is reported apart, so that a difference to the program's output can be
explained.
"""

from lib.metrics.lesions import LesionMatching, LesionPair


def detected_by_script(matching: LesionMatching, threshold: float) -> tuple[LesionPair, ...]:
    """Pairs that the scoring program takes for detected above `threshold`.

    Args:
        matching: of lesions numbered in C order, as `label_lesions` does.
        threshold: IoU that must be exceeded.
    """
    alive = {pair.reference[0]: pair for pair in matching.pairs}
    for pair in matching.pairs:
        own = pair.reference[0]
        mistaken = alive.get(pair.prediction[0])
        union = pair.overlap.reference
        if mistaken is not None:
            shared = sum(matching.shares.get((own, number), 0) for number in mistaken.prediction)
            union += mistaken.overlap.prediction - shared
        if pair.overlap.intersection / union <= threshold:
            del alive[own]
    return tuple(pair for pair in matching.pairs if pair.reference[0] in alive)
