"""What the ledger knows of a labelling campaign: how many images, and the final labels that people have saved.

Read by way of the labels there are, of which a campaign has thousands where it has a million images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, select

from lib.store import images
from lib.store.layout import FINAL
from lib.store.schema import labels, versions

# Where a person has judged: sent by a client, or stored in the PACS by a viewer.
_BY_PEOPLE = ("client", "pacs")


@dataclass(frozen=True)
class SavedLabel:
    """A final label that somebody saved.

    Args:
        image_id: of its image.
        number: of the version.
        author: who saved it.
        saved_at: seconds since the epoch.
        seconds: since its author got the image; None where that was not by the server's choice.
        model_version: of the model that pre-segmented it; None where it began without, as far as is known.
        dice: by class against the pre-segmentation, without the classes that neither has; None without one.
    """

    image_id: str
    number: int
    author: str
    saved_at: float
    seconds: float | None
    model_version: str | None
    dice: Mapping[str, float] | None


@dataclass(frozen=True)
class Progress:
    """Images by how far they are.

    Args:
        labelled: with a final label.
        left: that wait to be labelled.
        excluded: that somebody left out.
    """

    labelled: int
    left: int
    excluded: int


def progress(connection: Connection) -> Progress:
    """How far the campaign is."""
    counts = images.counts(connection)
    return Progress(counts["completed"], counts["open"], counts["excluded"])


def saved_labels(connection: Connection, *, corrections_only: bool = False) -> list[SavedLabel]:
    """Every version of the final labels that a person saved, the oldest first.

    Left out are labels that were withdrawn, and versions that only repeat an older one.

    Args:
        connection: to the ledger.
        corrections_only: only those that are known to begin with a pre-segmentation.
    """
    query = (
        select(
            versions.c.image_id, versions.c.number, versions.c.author, versions.c.saved_at,
            versions.c.seconds_since_lease, versions.c.model_version, versions.c.against_presegmentation,
        )
        .select_from(labels)
        .join(versions, and_(versions.c.image_id == labels.c.image_id, versions.c.tag == labels.c.tag))
        .where(labels.c.tag == FINAL, labels.c.version_id.is_not(None), versions.c.source.in_(_BY_PEOPLE))
        .order_by(versions.c.id)
    )  # fmt: skip
    if corrections_only:
        query = query.where(versions.c.against_presegmentation.is_not(None))
    return [
        SavedLabel(
            row.image_id,
            row.number,
            row.author,
            row.saved_at,
            row.seconds_since_lease,
            row.model_version,
            _dice(row.against_presegmentation),
        )
        for row in connection.execute(query)
    ]


def _dice(comparison: Mapping[str, Mapping[str, Any]] | None) -> dict[str, float] | None:
    if comparison is None:
        return None
    there = {name: row for name, row in comparison.items() if row.get("ml_first") or row.get("ml_second")}
    return {name: float(row["dice"]) for name, row in there.items()}
