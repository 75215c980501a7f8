"""Which engine runs a network on this machine: the fastest that gives PyTorch's labels, tried out and remembered."""

import hashlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.errors import StorageError
from lib.files import atomic_write, cache_folder
from lib.inference.agreement import Agreement, labels_of, probe_cases
from lib.inference.device import Precision, has_fast_bfloat16, has_fast_int8
from lib.inference.engine import Engine, TorchEngine
from lib.inference.int8 import Int8, accepted_int8
from lib.inference.stopwatch import Stopwatch
from lib.networks.unet import MulticlassUNet
from lib.settings import Settings

logger = logging.getLogger(__name__)

_ROUNDS = 4
_HOPELESS = 1.3  # times as slow as the fastest after two rounds: not timed again
_GAIN = 1.05  # PyTorch stays unless another is faster by so much
_SANE = 0.99  # of the pixels: what a judged engine must share, in case this machine computes something else
_KEPT = 64  # machines and settings, and models, in the records


class Candidate(NamedTuple):
    """An engine that could be built: its `name`, as the engine has it, and how.

    `judged`: its labels were compared with those of people, on whole CTs, and need not be the network's own.
    """

    name: str
    build: Callable[[], Engine]
    judged: bool = False


def choose_engine(
    network: nn.Module, title: str, settings: Settings, records: Path | None = None, folder: Path | None = None
) -> Engine:
    """The fastest engine for a network, as `inference.engine` and `inference.precision` allow.

    The candidates (on a CPU PyTorch and OpenVINO, on a GPU PyTorch as it is and compiled) segment slices of a phantom
    in turns, and the fastest is taken whose labels are those of PyTorch in float32. How fast they are is remembered by
    machine and kind of network, what was compared by weights: a known model takes a fraction of a second, a new one a
    comparison, and only a new machine some seconds, with a GPU half a minute, as compiling takes long. A version's
    accepted int8 network is one more candidate.

    Args:
        network: in evaluation mode.
        title: of the model, for the log.
        settings: the app's.
        records: where results are kept; None: `engines.json` in the user's cache folder.
        folder: of the model's version, see `lib.inference.int8`; None: it has none.
    """
    channels, chosen = settings.blend_channels(), settings.inference
    own = TorchEngine(network, channels, chosen.precision)
    device = next(network.parameters()).device
    if device.type not in {"cpu", "cuda"} or chosen.engine == "pytorch":
        return own
    records = records or cache_folder() / "engines.json"
    digest = weights_digest(network)
    int8 = None if why_no_int8(settings) else accepted_int8(folder, digest, title)
    candidates = candidates_for(network, settings, torch.get_num_threads(), int8)
    machine = _machine(device)
    speed_key = _key(
        machine, settings.network.model_dump(), len(channels), settings.classes, [c.name for c in candidates],
        int8.sha256 if int8 else None,  # one that could not be built says nothing of others
    )  # fmt: skip
    model_key = _key(machine, digest, repr(channels), torch.get_num_threads(), *([int8.sha256] if int8 else []))
    kept = _read(records)
    seconds, verdicts = dict(kept["speeds"].get(speed_key, {})), dict(kept["models"].get(model_key, {}))
    trial = _Trial(TorchEngine(network, channels, "float32"), settings.classes, verdicts, title, _clock(device))
    try:
        if set(seconds) != {candidate.name for candidate in candidates}:
            seconds = trial.measure(candidates)
        able = [candidate for candidate in candidates if seconds[candidate.name] is not None]
        engine = trial.first_to_agree(sorted(able, key=lambda candidate: _cost(candidate.name, seconds)))
    finally:
        _write(records, {"speeds": {speed_key: seconds}, "models": {model_key: verdicts}})
    if engine is None:
        logger.warning("model %s: no other engine can be used; PyTorch runs it", title)
        return own
    logger.info("model %s runs on %s%s", title, engine.name, _told(seconds))
    return engine


class _Trial:
    """Tries candidates out on the probe's slices; writes into `verdicts` whose labels are those of the reference."""

    def __init__(
        self, reference: Engine, classes: int, verdicts: dict[str, bool], title: str, clock: Callable[[], float]
    ) -> None:
        self._reference, self._classes, self._title = reference, classes, title
        self._verdicts, self._clock = verdicts, clock
        self._expected: NDArray[np.uint8] | None = None
        self._built: dict[str, Engine] = {}

    def measure(self, candidates: Sequence[Candidate]) -> dict[str, float | None]:
        """Seconds per slice of each; None for one that can't run this kind of network.

        In turns, so that what else the machine does meanwhile slows them all, and the best of some times, the first
        of which pays for what an engine prepares.
        """
        clock = self._clock
        hu, levels = probe_cases()[0]
        best: dict[str, float] = {}
        running = list(candidates)
        for number in range(_ROUNDS):
            for candidate in running:
                start = clock()
                if self._runs(candidate, lambda engine: engine(hu, levels, Stopwatch())):
                    seconds = (clock() - start) / len(hu)
                    best[candidate.name] = min(best.get(candidate.name, seconds), seconds)
            limit = float("inf") if number == 0 else _HOPELESS * min(best.values(), default=0)
            running = [candidate for candidate in running if best.get(candidate.name, float("nan")) <= limit]
        return {candidate.name: best.get(candidate.name) for candidate in candidates}

    def first_to_agree(self, candidates: Sequence[Candidate]) -> Engine | None:
        """The engine of the first candidate that can be used."""
        for candidate in candidates:
            if (
                self._verdicts.get(candidate.name) is not False
                and self._runs(candidate, lambda engine, candidate=candidate: self._judge(candidate, engine))  # type: ignore[misc]
                and self._verdicts[candidate.name]
            ):
                return self._built[candidate.name]
        return None

    def _runs(self, candidate: Candidate, job: Callable[[Engine], object]) -> bool:
        """Whether the candidate could be built and did the job."""
        name = candidate.name
        if not threading.main_thread().is_alive():  # which waits for the thread that chooses in the background
            msg = "the program ends"
            raise RuntimeError(msg)
        try:
            if name not in self._built:
                self._built[name] = candidate.build()
            job(self._built[name])
        except Exception as error:  # whatever a compiler of networks raises: another engine does it
            reason = " ".join(str(error).split())[:300]
            logger.warning("model %s: %s can't run it: %s", self._title, name, reason)
            return False
        return True

    def _judge(self, candidate: Candidate, engine: Engine) -> None:
        name = candidate.name
        if name in self._verdicts:
            return
        if self._expected is None:
            self._expected = labels_of(self._reference)
        found = Agreement.of(self._expected, labels_of(engine), self._classes)
        is_enough = found.pixels >= _SANE if candidate.judged else found.is_enough
        self._verdicts[name] = is_enough
        if not is_enough:
            logger.warning("model %s: %s is not used, it differs from PyTorch float32: %s", self._title, name, found)


def _clock(device: torch.device) -> Callable[[], float]:
    """Seconds on a GPU or a free machine; on a busy one the processor's, per thread, which others don't stretch.

    On a free machine the latter would leave out that threads wait for one another.
    """
    if device.type == "cpu" and hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) / 2:
        threads = torch.get_num_threads()
        return lambda: time.process_time() / threads
    return time.perf_counter


def why_no_int8(settings: Settings) -> str | None:
    """What in `app.yaml` or in this machine keeps a CPU from computing in int8; None: nothing does."""
    chosen = settings.inference
    if not chosen.int8:
        return "inference.int8 is false"
    if chosen.engine == "pytorch":
        return "inference.engine is pytorch"
    if chosen.precision != "auto":
        return f"inference.precision is {chosen.precision}"
    return None if has_fast_int8() else "this CPU has no fast int8 (AVX512-VNNI or AMX)"


def candidates_for(network: nn.Module, settings: Settings, threads: int, int8: Int8 | None = None) -> list[Candidate]:
    """What may run a network where it is, as `inference.engine`, `precision` and `batch_slices` allow.

    On a GPU that is PyTorch as it is and compiled. On a CPU OpenVINO comes with one stream of all threads and, more
    than one thread given, with as many as there are slices or threads.

    Args:
        network: in evaluation mode.
        settings: the app's.
        threads: CPU threads.
        int8: the network's accepted int8 files, where there are any.
    """
    channels, chosen = settings.blend_channels(), settings.inference
    has_bottom = isinstance(network, MulticlassUNet)
    found = []
    if next(network.parameters()).device.type == "cuda":
        for compiled in (False, True):
            engine = TorchEngine(network, channels, chosen.precision, compiled=compiled)
            found.append(Candidate(engine.name, lambda engine=engine: engine))  # type: ignore[misc]
        return found
    if chosen.engine == "auto":
        for precision in _precisions(chosen.precision):
            engine = TorchEngine(network, channels, precision)
            found.append(Candidate(engine.name, lambda engine=engine: engine))  # type: ignore[misc]
    try:
        from lib.inference.openvino_engine import OpenVinoEngine, openvino_name
    except ImportError as error:
        logger.warning("OpenVINO can't be used: %s", error)
        return found
    for precision in [*_precisions(chosen.precision), *(["int8"] if int8 else [])]:
        source = int8.path if int8 and precision == "int8" else network
        for streams in sorted({1, min(threads, chosen.batch_slices)}):
            found.append(
                Candidate(
                    openvino_name(precision, streams),
                    lambda source=source, precision=precision, streams=streams: OpenVinoEngine(  # type: ignore[misc]
                        source, channels, precision, threads=threads, streams=streams, has_bottom=has_bottom
                    ),
                    judged=precision == "int8",
                )
            )
    return found


def _precisions(precision: Precision) -> list[Any]:
    """The number formats to try, the fastest first."""
    if precision != "auto":
        return [precision]
    return ["bfloat16", "float32"] if has_fast_bfloat16() else ["float32"]


def _cost(name: str, seconds: Mapping[str, float | None]) -> float:
    taken = seconds[name] or 0.0
    if name.startswith("OpenVINO int8"):
        return taken * _GAIN
    return taken / _GAIN if name.startswith("PyTorch") and " compiled " not in name else taken


def _told(seconds: Mapping[str, float | None]) -> str:
    known = sorted((taken, name) for name, taken in seconds.items() if taken is not None)
    return f" (ms per slice of 320 x 320: {', '.join(f'{name} {1000 * taken:.0f}' for taken, name in known)})"


def weights_digest(network: nn.Module) -> str:
    """Tells weights apart, whatever version they claim to be."""
    digest = hashlib.sha256(type(network).__name__.encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _machine(device: torch.device) -> dict[str, str]:
    """What decides how fast engines are, and how they round."""
    if device.type == "cuda":
        return {"gpu": torch.cuda.get_device_name(device), "torch": torch.__version__}
    versions = {}
    for package in ("torch", "openvino"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = ""
    return {"cpu": _cpu(), "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads()), **versions}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "cpu family", "model\t", "stepping", "flags")
    return " ".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The records; none where the file is missing, damaged or of another kind."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {part: {key: dict(value) for key, value in content[part].items()} for part in ("speeds", "models")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"speeds": {}, "models": {}}


def _write(path: Path, new: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to the records and drop the oldest; where they can't be written, the next start tries again."""
    kept = _read(path)
    merged = {part: {**{k: v for k, v in kept[part].items() if k not in new[part]}, **new[part]} for part in kept}
    if merged == kept:
        return
    bounded = {part: dict(list(entries.items())[-_KEPT:]) for part, entries in merged.items()}
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(bounded, indent=1), encoding="utf-8")
    except (StorageError, OSError) as error:
        logger.info("the choice of the engine is not remembered: %s", error)
