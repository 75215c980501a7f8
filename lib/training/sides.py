"""The labelled cases of a studies folder, each with the side that the ledger holds for its patient."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lib.errors import BadInputError
from lib.settings import Settings
from lib.store import images, splits, versions
from lib.store.layout import FINAL, Layout
from lib.store.opening import open_store
from lib.store.patients import patient_of
from lib.store.store import Store
from lib.store.studies import is_pacs, labelled_images
from lib.training.split import Side, divide
from lib.volume_io import stem_of


def with_sides(
    store: Store, pairs: Sequence[dict[str, str]], settings: Settings, fraction: float
) -> list[dict[str, Any]]:
    """Labelled images with their `side`, `patient` and `voxels`; patients without a side are given one for good.

    Args:
        store: of the studies folder.
        pairs: `[{"image": path, "label": path}, ...]`.
        settings: how patients are told by names.
        fraction: the share of validation among new patients.
    """
    names = [stem_of(pair["image"]) for pair in pairs]
    pattern = settings.training.patient_pattern
    with store.ledger.writing() as connection:
        ids = images.patient_ids(connection, names)
        salt = splits.salt_of(store.ledger, connection)
        decided = cast("dict[str, Side]", splits.decided(connection))
        patients = {name: splits.key_of(patient_of(name, pattern, ids.get(name)), salt) for name in names}
        # Of the case too: a patient id that becomes known later, or another pattern, moves nobody.
        cases = {name: splits.key_of(f"case {name}", salt) for name in names}
        for name in names:
            if (
                decided.get(cases[name]) == "training"
            ):  # what was learned from can't judge, nor can the patient's others
                decided.setdefault(patients[name], "training")
        for name in names:
            if cases[name] in decided:
                decided.setdefault(patients[name], decided[cases[name]])
        by_patient = divide(patients.values(), fraction, salt, decided)
        sides = {name: decided.get(cases[name], by_patient[patients[name]]) for name in names}
        splits.note(connection, by_patient | {cases[name]: side for name, side in sides.items()})
        # A partial label is read before the training anyway: for how many of its slices were looked at.
        voxels = {c.image_id: c.voxels for c in versions.counted(connection, FINAL) if c.looked_at == 1}
    return [
        {**pair, "side": sides[name], "patient": patients[name], "voxels": voxels.get(name)}
        for pair, name in zip(pairs, names, strict=True)
    ]


def labelled_cases(studies: str | Path, settings: Settings, app_folder: Path | None = None) -> list[dict[str, Any]]:
    """Labelled images to train on: by the ledger where a folder has one, else by the names of its files.

    Args:
        studies: a folder, or the address of a PACS; of that the labelled series are fetched.
        settings: of the app.
        app_folder: of the app, see `lib.store.opening.open_store`.

    Raises:
        NotFoundError: there is no such folder.
        BadInputError: nothing in it is labelled.
        StorageError: disk or ledger refused, or a PACS can't be reached.
    """
    if not is_pacs(studies) and not Layout(Path(studies).resolve()).ledger.is_dir():
        pattern = settings.training.patient_pattern
        pairs = labelled_images(Path(studies))
        return [{**pair, "patient": patient_of(stem_of(pair["image"]), pattern)} for pair in pairs]
    store = open_store(studies, settings, app_folder, follow_classes=False)
    try:
        store.rescan()
        pairs = with_sides(store, store.datalist(), settings, settings.training.validation_fraction)
    finally:
        store.close()
    if not pairs:
        msg = f"{studies} has no labelled image that is fit and not excluded; scripts/ledger.py check says more"
        raise BadInputError(msg)
    return pairs
