"""The labelled cases of a studies folder, each with the side that the ledger holds for its patient."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lib.errors import BadInputError
from lib.settings import Settings
from lib.store import images, splits
from lib.store.layout import Layout
from lib.store.store import Store
from lib.store.studies import labelled_images
from lib.training.split import Side, divide, patient_of
from lib.volume_io import stem_of


def with_sides(
    store: Store, pairs: Sequence[dict[str, str]], settings: Settings, fraction: float
) -> list[dict[str, Any]]:
    """Labelled images with their `side`; patients who have none yet are given one for good.

    Args:
        store: of the studies folder.
        pairs: `[{"image": path, "label": path}, ...]`.
        settings: how patients are told by names.
        fraction: the share of validation among new patients.
    """
    names = [stem_of(pair["image"]) for pair in pairs]
    with store.ledger.writing() as connection:
        ids = images.patient_ids(connection, names)
        salt = splits.salt_of(store.ledger, connection)
        keys = {
            name: splits.key_of(patient_of(name, settings.training.patient_pattern, ids.get(name)), salt)
            for name in names
        }
        decided = cast("dict[str, Side]", splits.decided(connection))
        sides = divide(keys.values(), fraction, salt, decided)
        splits.note(connection, sides)
    return [{**pair, "side": sides[keys[name]]} for pair, name in zip(pairs, names, strict=True)]


def labelled_cases(studies: Path, settings: Settings) -> list[dict[str, Any]]:
    """Labelled images to train on: by the ledger where a folder has one, else by the names of its files.

    Raises:
        NotFoundError: there is no such folder.
        BadInputError: nothing in it is labelled.
    """
    if not Layout(studies.resolve()).ledger.is_dir():
        return list(labelled_images(studies))
    store = Store(studies, settings)
    try:
        store.rescan()
        pairs = with_sides(store, store.datalist(), settings, settings.training.validation_fraction)
    finally:
        store.close()
    if not pairs:
        msg = f"{studies} has no labelled image that is fit and not excluded; scripts/ledger.py check says more"
        raise BadInputError(msg)
    return pairs
