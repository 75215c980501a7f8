"""Whether this installation works: facts about the machine, and each part tried out on something small.

Only the standard library is imported at the top, so that a broken or missing package is a finding and not the end.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.cores import available_cores
from lib.errors import LiverLoopError, ModelError, NotFoundError
from lib.web.launch import check_address, check_app, check_studies

REPOSITORY = Path(__file__).resolve().parents[1]
_SHOWN_PACKAGES = ("monailabel", "monai", "torch", "torchvision", "pytorch-ignite", "numpy", "pydicom", "nibabel")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """What is examined: an app folder, a studies folder, and the address a server would listen on."""

    app: Path
    studies: str | Path  # a folder, or the address of a PACS
    host: str = "127.0.0.1"
    port: int = 8000


@dataclass(frozen=True)
class Finding:
    """How one part did: `detail` says what works, or why it does not and what to do."""

    name: str
    ok: bool
    detail: str
    seconds: float


def facts(place: Place) -> dict[str, str]:
    """Versions, processor, memory, GPU and disk, each as one line of text."""
    return {
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": platform.platform(),
        **{name: _installed_version(name) or "not installed" for name in _SHOWN_PACKAGES},
        "cpu": _or_unknown(_processor),
        "memory": _or_unknown(_memory),
        "gpu": _or_unknown(_gpu),
        "disk of studies": _or_unknown(lambda: _free_disk(_folder_of(place))),
        "disk of models": _or_unknown(lambda: _free_disk(place.app)),
    }


def parts(place: Place) -> dict[str, Callable[[], str]]:
    """The name of each part and the function that tries it; the function gives the detail or raises."""
    return {
        "environment": _try_environment,
        "packages": _try_packages,
        "app folder": lambda: str(check_app(place.app)),
        "settings": lambda: _try_settings(place),
        "studies folder": lambda: check_studies(str(place.studies), place.app),
        "sample image": _try_sample_image,
        "windowing": lambda: _try_windowing(place),
        "network": lambda: _try_network(place),
        "weights": lambda: _try_weights(place),
        "engine": lambda: _try_engine(place),
        "label files": lambda: _try_label_files(place),
        "jpeg 2000": _try_jpeg_2000,
        "dicom seg tool": _try_dicom_seg_tool,
        "monai label": _try_monai_label,
        "port": lambda: _try_port(place),
    }


def examine(tries: Mapping[str, Callable[[], str]]) -> Iterator[Finding]:
    """Try each part and yield how it did; one that fails does not keep the others from being tried."""
    for name, attempt in tries.items():
        start = time.perf_counter()
        try:
            detail, ok = attempt(), True
        except LiverLoopError as error:
            detail, ok = str(error), False
        except Exception as error:
            # Anything may be wrong with an installation; whatever it is becomes the finding.
            detail, ok = f"{type(error).__name__}: {' '.join(str(error).split())}", False
        yield Finding(name, ok, detail, time.perf_counter() - start)


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _or_unknown(fact: Callable[[], str]) -> str:
    try:
        return fact()
    except (ImportError, OSError, RuntimeError) as error:
        return f"unknown ({error})"


def _processor() -> str:
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(encoding="utf-8"), re.MULTILINE)
        model = found[1] if found else model
    from lib.inference.device import has_fast_bfloat16

    fast = "fast" if has_fast_bfloat16() else "not fast (float32 is used)"
    return f"{model}, {available_cores()} cores to use, bfloat16 {fast}"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB available"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that torch can use"
    names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{device.name} ({device.total_memory / 1e9:.0f} GB)" for device in names)


def _folder_of(place: Place) -> Path:
    """Where labels and images lie."""
    from lib.settings import load_settings
    from lib.store.opening import working_folder
    from lib.store.studies import is_pacs

    if not is_pacs(place.studies):
        return Path(place.studies)
    return working_folder(str(place.studies), load_settings(place.app / "app.yaml"), place.app)


def _free_disk(folder: Path) -> str:
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    return f"{shutil.disk_usage(existing).free / 1e9:.0f} GB free at {existing}"


def _try_environment() -> str:
    expected = REPOSITORY / ".venv"
    if Path(sys.prefix).resolve() != expected.resolve():
        msg = f"Python runs from {sys.prefix}; use .venv/bin/python scripts/doctor.py after scripts/setup"
        raise NotFoundError(msg)
    return str(expected)


def _try_packages(lock: Path = REPOSITORY / "requirements.txt") -> str:
    text = "\n".join(line for line in lock.read_text(encoding="utf-8").splitlines() if _applies(line))
    pins = dict(_PIN.findall(text))
    found = {name: _installed_version(name) for name in pins}
    wrong = [f"{name} {found[name] or 'missing'} instead of {pins[name]}" for name in pins if found[name] != pins[name]]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        msg = f"{len(wrong)} of {len(pins)} packages differ from requirements.txt: {shown}; run scripts/setup"
        raise NotFoundError(msg)
    return f"all {len(pins)} are those of requirements.txt"


def _applies(line: str) -> bool:
    return 'platform_system == "Linux"' not in line or platform.system() == "Linux"


def _try_settings(place: Place) -> str:
    from lib.settings import load_settings

    settings = load_settings(place.app / "app.yaml")
    return f"labels {', '.join(settings.labels)}; windows {', '.join(settings.channels)}; {settings.network.name}"


def _try_sample_image() -> str:
    from lib.volume_io import IMAGE_SUFFIXES, read_image

    folder = REPOSITORY / "sample-data"
    images = [path for path in sorted(folder.glob("*")) if path.name.endswith(IMAGE_SUFFIXES)]
    if not images:
        msg = f"{folder} holds no phantom; restore it from the repository"
        raise NotFoundError(msg)
    volume = read_image(images[0])
    shape, spacing = (" x ".join(f"{value:g}" for value in values) for values in (volume.shape, volume.spacing))
    return f"{images[0].name}: {shape} voxels of {spacing} mm"


def _slice_of_water() -> Any:
    import numpy as np

    hu = np.full((1, 512, 512), -1000, np.int16)
    hu[:, 128:384, 96:416] = 50
    return hu


def _try_windowing(place: Place) -> str:
    from lib.settings import load_settings
    from lib.transforms.windowing import blend

    channels = load_settings(place.app / "app.yaml").blend_channels()
    start = time.perf_counter()
    planes = blend(_slice_of_water(), channels)
    seconds = time.perf_counter() - start
    if planes.min() < 0 or planes.max() > 1:
        msg = f"windowing gave values from {planes.min():g} to {planes.max():g} instead of 0 to 1"
        raise ModelError(msg)
    return f"{planes.shape[1]} channels of 512 x 512 in {1000 * seconds:.1f} ms"


def _try_network(place: Place) -> str:
    from lib.inference.device import choose_device
    from lib.inference.engine import TorchEngine
    from lib.inference.model import new_network
    from lib.inference.stopwatch import Stopwatch
    from lib.settings import load_settings
    from lib.transforms.windowing import gray_levels

    settings = load_settings(place.app / "app.yaml")
    device = choose_device()
    network = new_network(settings).to(device).eval()
    start = time.perf_counter()
    water = _slice_of_water()
    logits = TorchEngine(network, settings.blend_channels()).logits(water, gray_levels(water[0])[None], Stopwatch())
    seconds = time.perf_counter() - start
    if tuple(logits.shape) != (1, settings.classes, 512, 512):
        msg = f"{settings.network.name} gives {tuple(logits.shape)} instead of (1, {settings.classes}, 512, 512)"
        raise ModelError(msg)
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{count:,} parameters; first slice of 512 x 512 on {device} in {seconds:.2f} s"


def _try_engine(place: Place) -> str:
    from lib.inference.agreement import probe_cases
    from lib.inference.device import choose_device
    from lib.inference.model import ModelSource, load_model
    from lib.inference.stopwatch import Stopwatch
    from lib.settings import load_settings

    settings = load_settings(place.app / "app.yaml")
    model = load_model(settings, ModelSource.of_app(settings, place.app).path, choose_device())
    if model.engine(settings).device.type == "cpu":  # on a GPU the trial compiles for half a minute
        model = model.hastened(settings)
    hu, levels = probe_cases()[0]
    engine = model.engine(settings)
    engine(hu, levels, Stopwatch())  # prepares what the second finds ready
    start = time.perf_counter()
    engine(hu, levels, Stopwatch())
    milliseconds = 1000 * (time.perf_counter() - start) / len(hu)
    height, width = hu.shape[1:]
    return f"{engine.name}; a slice of {height} x {width} in {milliseconds:.0f} ms"


def _try_weights(place: Place) -> str:
    import torch

    from lib.inference.model import ModelSource, load_model
    from lib.settings import load_settings

    settings = load_settings(place.app / "app.yaml")
    published = place.app / "model" / f"{settings.model_name}.pt"
    path = ModelSource(settings, published, place.app / "starter.pt").path
    model = load_model(settings, path, torch.device("cpu"))
    return f"{'own model' if path == published else 'starter weights'} {path.name}, version {model.version}"


def _try_label_files(place: Place) -> str:
    import numpy as np

    from lib.settings import load_settings
    from lib.volume import Volume
    from lib.volume_io import read_label, write_label

    labels = load_settings(place.app / "app.yaml").labels
    array = np.zeros((7, 6, 5), np.uint8)
    array[2:5, 2:4, 1:3] = 1
    label = Volume(array, np.diag([-0.8, -0.8, 3.0, 1.0]))
    suffixes = (".nii.gz", ".nrrd", ".seg.nrrd")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in suffixes:
            path = Path(folder) / f"label{suffix}"
            write_label(path, label, labels)
            back = read_label(path)
            if not (np.array_equal(back.array, array) and np.allclose(back.affine, label.affine)):
                msg = f"a label written as {suffix} came back changed"
                raise ModelError(msg)
    return f"written and read back as {', '.join(suffixes)}"


def _try_jpeg_2000() -> str:
    import numpy as np
    from openjpeg.utils import encode_array
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PixelRepresentation = 64, 64, 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = encapsulate([bytes(encode_array(pixels, bits_stored=16))])
    if not np.array_equal(dataset.pixel_array, pixels):
        msg = "a JPEG 2000 lossless DICOM image was decoded to other pixels"
        raise ModelError(msg)
    return "a lossless DICOM image is decoded exactly"


def _try_dicom_seg_tool() -> str:
    folder = str(Path(sys.executable).parent)
    tool = shutil.which("itkimage2segimage", path=os.pathsep.join([folder, os.environ.get("PATH", os.defpath)]))
    if tool is None:
        msg = "itkimage2segimage is missing, so that a DICOMweb server can't start offline; run scripts/setup"
        raise NotFoundError(msg)
    answer = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=60)
    if answer.returncode != 0:
        msg = f"{tool} does not run: {' '.join(answer.stderr.split())[:200]}"
        raise NotFoundError(msg)
    return tool


def _try_monai_label() -> str:
    import monailabel.interfaces.app
    import monailabel.main

    path = Path(monailabel.main.__file__).parent
    return f"{_installed_version('monailabel')} imports, {monailabel.interfaces.app.__name__} too, from {path}"


def _try_port(place: Place) -> str:
    check_address(place.host, place.port)
    return f"{place.port} on {place.host} is free"
