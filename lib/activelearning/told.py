"""What an annotator is told of an image that they are given."""

from typing import Any

from lib.activelearning.quality import SENTENCES
from lib.store import images, scores
from lib.store.leases import REVIEW, Lease
from lib.store.store import Store


def told(store: Store, lease: Lease, model_version: str | None) -> dict[str, Any]:
    """The lease and what belongs to it, as JSON.

    Args:
        store: the studies folder.
        lease: what was given.
        model_version: the model in force.

    Returns:
        `id`, `strategy`, `reason`, `score`, `lease`; `slices`, those worth looking at, the most uncertain first, each
        `{"label", "first", "last"}` with axial slices from 0, nearest the feet; `flags`, doubts about the image and
        what a model made of it, in sentences, none for a review, which shows a label of people; `campaign`: how many
        labels there are, are planned and are left to be made, and the model in force.

    Raises:
        StorageError: the ledger can't be read.
    """
    with store.ledger.reading() as connection:
        labelled = images.count_labelled(connection)
        scored = scores.of_images(connection, [lease.image_id], profile=False).get(lease.image_id)
    planned = store.settings.active_learning.planned_labels
    flags = scored.scores.flags if scored and scored.scores and lease.strategy != REVIEW else ()
    return {
        "id": lease.image_id,
        "strategy": lease.strategy,
        "reason": lease.reason,
        "score": lease.score,
        "slices": [{"label": span.label, "first": span.first, "last": span.last} for span in lease.slices],
        "flags": [SENTENCES.get(flag, flag.replace("_", " ")) for flag in flags],
        "campaign": {
            "labelled": labelled,
            "planned": planned,
            "left": max(0, planned - labelled),
            "model_version": model_version,
        },
        "lease": lease.described(),
    }
