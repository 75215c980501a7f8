"""The label of an image in review as 3D Slicer takes it to correct it: as the label `original`.

3D Slicer makes the k-th name of a label a segment of the voxels with the value k and drops every other value: 255 would
be lost, and all that nobody looked at would come back as background. So what it loads of a partial label has the next
value instead, and a name for it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sqlalchemy import Connection

from lib.labels import NOT_LOOKED_AT, NOT_LOOKED_AT_NAME
from lib.store import leases, versions
from lib.store.layout import FINAL, ORIGINAL
from lib.store.leases import REVIEW
from lib.store.meaning import looked_at
from lib.store.versions import Version
from lib.volume import Volume


def in_review(connection: Connection, image_id: str) -> Version | None:
    """The final label of an image that is in somebody's hands for review; None if it is not."""
    lease = leases.of_image(connection, image_id)
    return versions.current(connection, image_id, FINAL) if lease is not None and lease.strategy == REVIEW else None


def renumbered(label: Volume, labels: Mapping[str, int]) -> Volume:
    """The label with what nobody looked at as the value after those of the classes."""
    table = np.arange(256, dtype=np.uint8)
    table[NOT_LOOKED_AT] = _names(labels)[NOT_LOOKED_AT_NAME]
    return Volume(table[label.array], label.affine)


def name_those_in_review(connection: Connection, objects: dict[str, dict[str, Any]], labels: Mapping[str, int]) -> None:
    """List labels in review as the label `original`, which 3D Slicer loads; partial ones as `renumbered` makes them.

    Args:
        connection: to the ledger.
        objects: as from `lib.store.versions.described`; changed.
        labels: names and indices of the classes.
    """
    for lease in leases.list_all(connection):
        version = in_review(connection, lease.image_id) if lease.image_id in objects else None
        if version is not None:
            named = _names(labels) if looked_at(version.info) else dict(labels)
            numbers = [{"name": name, "idx": value} for name, value in named.items()]
            info = {**version.info, "params": {"label_names": named}, "label_info": numbers}
            entry = objects[lease.image_id]["labels"]
            entry[ORIGINAL] = {"info": info, "ext": entry[FINAL]["ext"]}


def _names(labels: Mapping[str, int]) -> dict[str, int]:
    return {**labels, NOT_LOOKED_AT_NAME: len(labels) + 1}
