"""Which files of two folders belong together: pairs by name, with the LiTS challenge's names understood.

A name is the file's name without its suffix, so that `case.nii` pairs with `case.nii.gz`. LiTS calls the labels of
`volume-7` both `segmentation-7` and, in a submission, `test-segmentation-7`; with either name on one side and another
on the other side, the number decides.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.errors import BadInputError, NotFoundError
from lib.volume_io import IMAGE_SUFFIXES, stem_of

_LITS = re.compile(r"(?P<test>test-)?(?P<kind>segmentation|volume)-(?P<number>\d+)")


@dataclass(frozen=True)
class Pair:
    """A case's name (of its reference) and its two label files."""

    name: str
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class Pairing:
    """Pairs in natural order, and the files of either folder that have no partner."""

    pairs: tuple[Pair, ...]
    reference_only: tuple[Path, ...]
    prediction_only: tuple[Path, ...]


def pair_files(reference: Path, prediction: Path) -> Pairing:
    """Pair the label files (.nii, .nii.gz, .nrrd) of two folders; subfolders and hidden files are not looked at.

    Raises:
        NotFoundError: a folder does not exist.
        BadInputError: a folder holds no label file, or one case twice.
    """
    references, predictions = _label_files(reference), _label_files(prediction)
    partner = {name: name for name in references if name in predictions}
    free_references = _by_lits_number(name for name in references if name not in partner)
    free_predictions = _by_lits_number(name for name in predictions if name not in partner)
    for number, names in free_references.items():
        others = free_predictions.get(number, [])
        if len(names) == 1 and len(others) == 1:
            partner[names[0]] = others[0]
        elif others:
            msg = f"LiTS case {number}: can't tell which of {names} belongs to which of {others}; rename them alike"
            raise BadInputError(msg)
    taken = set(partner.values())
    return Pairing(
        tuple(Pair(name, references[name], predictions[partner[name]]) for name in _ordered(partner)),
        tuple(references[name] for name in _ordered(references) if name not in partner),
        tuple(predictions[name] for name in _ordered(predictions) if name not in taken),
    )


def find_image(folder: Path, pair: Pair) -> Path | None:
    """The CT of a pair: a file or DICOM folder named like the labels, or LiTS' `volume-N`; None if there is none."""
    names = [stem_of(pair.reference), stem_of(pair.prediction)]
    for name in tuple(names):
        match = _LITS.fullmatch(name)
        if match and match["kind"] == "segmentation":
            # The folder may hold the labels as well, under their own names.
            names = [f"{match['test'] or ''}volume-{match['number']}", f"volume-{match['number']}"]
            break
    for name in names:
        for candidate in (folder / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES):
            if candidate.is_file() and candidate.resolve() not in (pair.reference.resolve(), pair.prediction.resolve()):
                return candidate
        if (folder / name).is_dir():
            return folder / name
    return None


def _label_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        msg = f"{folder}: there is no such folder"
        raise NotFoundError(msg)
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if not path.is_file() or name.startswith(".") or not name.endswith(IMAGE_SUFFIXES):
            continue
        if name.endswith(".seg.nrrd"):  # its values mean what its header says, not 0, 1, 2
            continue
        stem = stem_of(path)
        if stem in files:
            msg = f"{folder}: holds both {files[stem].name} and {path.name}; keep one of them"
            raise BadInputError(msg)
        files[stem] = path
    # LiTS keeps image and label side by side: there, volume-N is the image.
    images = {name for name in files if name.replace("volume", "segmentation") in files.keys() - {name}}
    labels = {name: path for name, path in files.items() if name not in images or not _LITS.fullmatch(name)}
    if not labels:
        msg = f"{folder}: holds no label files; expected .nii, .nii.gz or .nrrd directly in it"
        raise BadInputError(msg)
    return labels


def _by_lits_number(names: Iterable[str]) -> dict[int, list[str]]:
    numbered: dict[int, list[str]] = {}
    for name in names:
        match = _LITS.fullmatch(name)
        if match:
            numbered.setdefault(int(match["number"]), []).append(name)
    return numbered


def _ordered(names: Iterable[str] | Mapping[str, object]) -> list[str]:
    """Natural order: case-2 before case-10."""
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
