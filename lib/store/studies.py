"""What lies in a studies folder, found without a server.

The same rules as `lib.store.folder`: images at the top, labels of the same name in `labels/<tag>/`.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lib.errors import BadInputError, NotFoundError
from lib.store.layout import FINAL
from lib.volume_io import IMAGE_SUFFIXES, stem_of


def is_pacs(studies: str | Path) -> bool:
    """Whether what `--studies` names is the address of a PACS and no folder."""
    return str(studies).lower().startswith(("http://", "https://"))


def named_studies(text: str) -> str | Path:
    """What `--studies` names: the address of a PACS as it stands there, else a folder."""
    return text if is_pacs(text) else Path(text)


def images_in(folder: Path) -> list[Path]:
    """The image files at the top of a folder, by name."""
    return _volumes(folder)


def expand_images(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, studies folders as the images at their top, other folders as DICOM series.

    Returns:
        Each image once, in the order given.

    Raises:
        NotFoundError: a path does not exist.
        BadInputError: a folder holds no file at all.
    """
    found: list[Path] = []
    for path in paths:
        if str(path).startswith(("http:/", "https:/")):
            msg = "images of a PACS are segmented by a server, scripts/serve --studies ADDRESS; give files or folders"
            raise BadInputError(msg)
        if not path.exists():
            msg = f"there is no image or folder {path}"
            raise NotFoundError(msg)
        if path.is_file():
            found.append(path)
        elif images := images_in(path):
            found.extend(images)
        elif any(entry.is_file() for entry in path.iterdir()):
            found.append(path)
        else:
            msg = (
                f"{path} holds neither images ({', '.join(IMAGE_SUFFIXES)}) nor DICOM slices; name the folder with them"
            )
            raise BadInputError(msg)
    return list({path.resolve(): path for path in found}.values())


def labelled_images(folder: Path, tag: str = FINAL) -> list[dict[str, str]]:
    """Images that have a label, as MONAI Label's `[{"image": path, "label": path}, ...]` by name.

    Raises:
        NotFoundError: there is no such folder.
        BadInputError: it has no labels, none of them belongs to an image, or two files share one name.
    """
    if not folder.is_dir():
        msg = f"there is no studies folder {folder}"
        raise NotFoundError(msg)
    images = _by_stem(images_in(folder))
    labels = _by_stem(_volumes(folder / "labels" / tag))
    pairs = [{"image": str(images[stem]), "label": str(labels[stem])} for stem in sorted(images) if stem in labels]
    if not pairs:
        msg = (
            f"{folder} has {len(images)} images and {len(labels)} labels in labels/{tag}, but no pair of one name; a "
            "label is called like its image"
        )
        raise BadInputError(msg)
    return pairs


def _volumes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    # "._name" lies beside every file that macOS wrote to a network share; ours in the making start with a dot as well.
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(IMAGE_SUFFIXES)
    )


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_stem[stem_of(path)].append(path)
    for stem, same in by_stem.items():
        if len(same) > 1:
            names = ", ".join(path.name for path in same)
            msg = f"{same[0].parent}: {names} share the name {stem!r}; keep one of them"
            raise BadInputError(msg)
    return {stem: same[0] for stem, same in by_stem.items()}
