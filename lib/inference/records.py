"""What was made already: a record beside each label says of which image, by which model and with which settings."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.files import atomic_write, file_sha256
from lib.inference.model import Model
from lib.settings import Settings

FOLDER = "records"
_SECTIONS = {"labels", "windows", "channels", "network", "inference", "postprocessing"}  # that a label depends on


@dataclass(frozen=True)
class Recipe:
    """What a label depends on beside its image.

    Args:
        model_version: as the weights tell it.
        weights_sha256: of the weights file, as two files may tell one version.
        settings: the sections of `app.yaml` that matter, as plain values.
    """

    model_version: str
    weights_sha256: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, model: Model, weights: Path, settings: Settings) -> "Recipe":
        """The recipe of a model that was loaded from `weights`."""
        return cls(model.version, file_sha256(weights), settings.model_dump(mode="json", include=_SECTIONS))

    def of_image(self, image: Path) -> dict[str, Any]:
        """What a record says its label was made from, as plain values.

        Args:
            image: a file, or a DICOM folder; its content is told by names, sizes and times of change.

        Raises:
            OSError: it is gone.
        """
        return {
            "image_state": _state(image),
            "model_version": self.model_version,
            "weights_sha256": self.weights_sha256,
            "settings": dict(self.settings),
        }


def keep(label: Path, made_from: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Note that a label is finished: `records/NAME.json` in its folder, whole or not at all.

    Args:
        label: the file just written.
        made_from: `Recipe.of_image`, taken before the image was read: if it is replaced meanwhile, the label is old.
        record: what `lib.inference.files.run_job` gave.

    Raises:
        StorageError: the disk refused.
    """
    content = {"made_from": made_from, "label_sha256": file_sha256(label), "record": record}
    with atomic_write(_path(label)) as path:
        path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def find(label: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a label that was made from just this, and is still as it was written.

    Returns:
        What was given to `keep`; None where the work is still to be done.
    """
    try:
        content = json.loads(_path(label).read_text(encoding="utf-8"))
        same = content["made_from"] == made_from and content["label_sha256"] == file_sha256(label)
        return dict(content["record"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):  # missing, or not ours
        return None


def _path(label: Path) -> Path:
    return label.parent / FOLDER / f"{label.name}.json"


def _state(image: Path) -> str:
    files = sorted(path for path in image.iterdir() if path.is_file()) if image.is_dir() else [image]
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(states).encode()).hexdigest()
