"""Reads damaged files as the server does, one after the other: `python -m tests.fuzz.reading FOLDER FIRST COUNT`.

Ends with one line of JSON: how many were read, how many refused, and what should not happen. A reader that hangs ends
the process with a traceback of where it hung, and one that crashes ends it anyway; the input is then still in FOLDER.
"""

import faulthandler
import json
import logging
import re
import shutil
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from lib.errors import LiverLoopError
from lib.labels import DEFAULT_LABELS
from lib.settings import LimitSettings
from lib.store.door import checked_label
from lib.uploads import HEAD_BYTES, suffix_by_content
from lib.volume import Grid
from lib.volume_io import read_grid, read_image, suffix_of
from lib.web.sessions import Sessions
from tests.fuzz.inputs import AFFINE, SHAPE, damaged, seeds

PATIENCE_S = 10
_AT_ONCE = 20  # files that may take this long together, some milliseconds each; the clock of a file costs as much
_MOST_FAULTS = 20  # are enough to look at
_NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]


def made(number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """The damaged file of a number, always the same, and the name of what it was made of."""
    names = list(files)
    name = names[number % len(names)]
    return name, damaged(files[name], name[name.index(".") :], np.random.default_rng((7, number)))


def read(path: Path, number: int, sessions: Sessions) -> None:
    """As the server reads what is sent, and checks that it is what it should be.

    Raises:
        LiverLoopError: refused.
    """
    with path.open("rb") as file:
        suffix_by_content(file.read(HEAD_BYTES))
    suffix = path.name[path.name.index(".") :]
    if suffix == ".dcm" and number % 4:  # without the way through a session, which takes longer than reading
        series = path.parent / "series"
        series.mkdir(exist_ok=True)
        path.replace(series / "1.dcm")
        assert read_image(series).array.dtype == np.int16
        return
    if suffix in {".dcm", ".zip", ".tar", ".tar.gz"}:
        with sessions.staging() as staged:
            received = Path(shutil.copyfile(path, staged / "1"))
            session = sessions.add(staged, [received], None, 0, uncompress=suffix != ".dcm")
        try:
            image = read_image(session.image)
        finally:
            sessions.remove_session(session.name)
        assert (image.array.dtype, image.array.ndim) == (np.int16, 3)
        return
    suffix_of(path)
    if path.name.startswith("image") or number % 3 == 0:
        image = read_image(path.rename(path.with_name("a.nrrd")) if suffix == ".seg.nrrd" else path)
        assert (image.array.dtype, image.array.ndim) == (np.int16, 3)
    else:
        grid = Grid(SHAPE, AFFINE)
        if number % 4 == 0:  # so that what is of another shape gets further
            grid = read_grid(path)
        looked_at = [[0, 2]] if number % 5 == 0 else None
        label = checked_label(path, grid, _NAMES if number % 2 else None, DEFAULT_LABELS, 1.0, looked_at)
        assert (label.array.dtype, label.shape) == (np.uint8, grid.shape)


def main(folder: Path, first: int, count: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    files, sessions = seeds(), Sessions(folder / "sessions", 3600, LimitSettings())
    for name, content in files.items():
        (folder / name).write_bytes(content)
        for number in range(1, 3):
            read_seed(folder / name, number, sessions)
    found: Counter[str] = Counter()
    faults = []
    before = _peak_kb()
    for number in range(first, first + count):
        name, content = made(number, files)
        path = folder / name
        path.write_bytes(content)
        if number % _AT_ONCE == 0:
            faulthandler.dump_traceback_later(PATIENCE_S, exit=True)  # and not what was asked for before
        try:
            read(path, number, sessions)
            found["read"] += 1
        except LiverLoopError as error:
            found["refused"] += 1
            if "\n" in str(error):
                faults.append([number, name, f"several lines: {error}"])
        except BaseException:
            faults.append([number, name, traceback.format_exc()])
        after = _peak_kb()
        if after > before + 50_000:
            found["grown"] += 1
            print(f"input {number} ({name}): {before} to {after} KB", file=sys.stderr)
            before = after
        if len(faults) >= _MOST_FAULTS:
            break
    faulthandler.cancel_dump_traceback_later()
    left = sorted(path.name for path in (folder / "sessions").iterdir())
    peak = _peak_kb() // 1024
    print(json.dumps({**found, "faults": faults, "left": left, "peak_mb": peak}))


def read_seed(path: Path, number: int, sessions: Sessions) -> None:
    """An undamaged file is read, or refused because it is no CT or fits no image."""
    content = path.read_bytes()
    try:
        read(path, number, sessions)
    except LiverLoopError as error:
        if "not a CT" not in str(error):
            raise
    path.write_bytes(content)


def _peak_kb() -> int:
    """The most memory that this program had; `ru_maxrss` also tells of the one that was forked to start it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
