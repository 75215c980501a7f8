"""Where the files of a model version lie."""

import re
from pathlib import Path

from lib.files import file_sha256

VERSION_ID = re.compile(r"\w[\w.:\-]{0,99}")  # what can name a version, and hence a folder


def version_folder(weights: Path, version: str) -> Path:
    """The folder of a version in `model/versions`, whether or not there is one.

    Args:
        weights: a version's own file, the published one of an app, or its starter weights.
        version: which they hold, as they say themselves; where that can't name a version, their checksum does.
    """
    folder = weights.parent
    if folder.parent.name == "versions":
        return folder
    name = version if VERSION_ID.fullmatch(version) else f"sha256:{file_sha256(weights)[:12]}"
    return (folder if folder.name == "model" else folder / "model") / "versions" / name.replace(":", "-")
