"""The environment variables that MONAI Label must be started with.

Each default below turns off something of MONAI Label 0.8.5 that breaks or slows an active-learning loop. Whoever sets
one of these variables before the start keeps their value.
"""

import ctypes
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.cores import available_cores

# What counts as an image in a studies folder; MONAI Label would also offer pictures and whole-slide scans.
IMAGE_PATTERNS = ("*.nii.gz", "*.nii", "*.nrrd")
_HEAPS = 2
_M_ARENA_MAX = -8  # of <malloc.h>


def server_environment(
    current: Mapping[str, str], *, port: int | None = None, cores: int | None = None, programs: Path | None = None
) -> dict[str, str]:
    """The variables to set before MONAI Label is imported.

    Args:
        current: the environment as it is (`os.environ`); what it sets is kept.
        port: where the server will listen; None leaves that variable alone.
        cores: how many CPU cores to use; None for all that this process may use.
        programs: the folder of this environment's programs; None for that of the running Python.

    Returns:
        Only the variables that differ from `current`.

    Example:
        >>> server_environment({}, cores=4)["OMP_NUM_THREADS"]
        '4'
    """
    threads = str(cores or available_cores())
    defaults = {
        # MLflow is not installed, and refuses MONAI Label's default file store where it is: every training of MONAI
        # Label's own would end in an error.
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        # Otherwise each request for the next image queues every scoring method again.
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(IMAGE_PATTERNS),
        # ONNX Runtime, which MONAI imports, would report its use to its maker.
        "ORT_DISABLE_TELEMETRY": "1",
        # One pool of threads of the machine's size; its waiting threads sleep instead of spinning, since inference
        # and a training subprocess share the cores.
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": threads,
    }
    wanted = {name: value for name, value in defaults.items() if name not in current}
    if port is not None:
        wanted["MONAI_LABEL_SERVER_PORT"] = str(port)
    # MONAI Label runs a bare `python`, and downloads DICOM tools that it doesn't find on PATH.
    folder = str(programs or Path(sys.executable).parent)
    path = current.get("PATH", os.defpath).split(os.pathsep)
    if path[0] != folder:
        wanted["PATH"] = os.pathsep.join([folder, *(entry for entry in path if entry != folder)])
    return {name: value for name, value in wanted.items() if current.get(name) != value}


def share_heaps(environment: Mapping[str, str] = os.environ) -> bool:
    """Let all threads of this process share a few heaps of glibc.

    Otherwise each of a busy server's threads gets one of its own, in which freed memory lies that no other can use, so
    that the server grows for a long time.

    Args:
        environment: where `MALLOC_ARENA_MAX` is set already, glibc has seen it at the start.

    Returns:
        Whether it was done; other C libraries have no such thing.
    """
    if "MALLOC_ARENA_MAX" in environment or not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS))
    except AttributeError:
        return False


def apply_environment(environment: Mapping[str, str]) -> None:
    """Set the variables, also in MONAI Label's settings if those were read already.

    `scripts/serve` calls this before it imports MONAI Label; an app that plain `monailabel start_server` loads can
    only call it afterwards. Thread counts then reach the training subprocess but no longer the server itself.
    """
    os.environ.update(environment)
    config: Any = sys.modules.get("monailabel.config")
    if config is None:
        return
    fresh = type(config.settings)()
    for name in environment:
        if name in type(config.settings).model_fields:
            setattr(config.settings, name, getattr(fresh, name))


def settle_environment() -> None:
    """Apply the defaults once MONAI Label runs, for an app that plain `monailabel start_server` loads.

    MONAI Label writes all its settings into the environment before it loads an app. Only those that it was given
    count as set by someone; a subprocess is given all of them, so that nothing changes there.
    """
    settings: Any = sys.modules["monailabel.config"].settings
    untouched = set(type(settings).model_fields) - settings.model_fields_set
    given = {name: value for name, value in os.environ.items() if name not in untouched}
    apply_environment(server_environment(given))
