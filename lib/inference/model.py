"""The weights that annotators get: the published model, or the starter weights until there is one."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lib.errors import ModelError
from lib.files import file_sha256
from lib.inference.choice import choose_engine
from lib.inference.engine import Engine, TorchEngine
from lib.inference.int8 import VERDICT_FILE
from lib.inference.version_folder import version_folder
from lib.networks.checkpoint import load_weights
from lib.networks.factory import build_network
from lib.settings import Settings

logger = logging.getLogger(__name__)


class _Identity(NamedTuple):
    """One state of a file that is only ever replaced, so that the inode changes even within a clock tick."""

    path: Path
    inode: int
    modified: int
    size: int


def _identify(path: Path) -> _Identity:
    status = path.stat()
    return _Identity(path, status.st_ino, status.st_mtime_ns, status.st_size)


def _verdict_on_int8(model: "Model") -> _Identity | None:
    """Differs after a version was quantized, which takes some minutes from its publication."""
    try:
        return _identify(model.folder / VERDICT_FILE) if model.folder else None
    except OSError:
        return None


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode and which version of the weights it holds.

    Args:
        network: with the weights.
        version: theirs.
        chosen: what runs the network faster than itself; None: itself.
        folder: of the version, where its int8 files may lie; None: it has none.
    """

    network: nn.Module
    version: str
    chosen: Engine | None = None
    folder: Path | None = None

    def engine(self, settings: Settings) -> Engine:
        """What runs the network."""
        return self.chosen or TorchEngine(self.network, settings.blend_channels(), settings.inference.precision)

    def hastened(self, settings: Settings, records: Path | None = None) -> "Model":
        """The same model with its fastest engine, chosen now; see `lib.inference.choice.choose_engine`."""
        return replace(self, chosen=choose_engine(self.network, self.version, settings, records, self.folder))


class ModelSource:
    """Gives the newest model for a device, loaded once per version.

    Its fastest engine is chosen in the background; until then PyTorch runs it, so that nobody waits for that.

    Args:
        settings: which network to build.
        published: where training publishes; may not exist yet.
        starter: weights to use until then.
        records: see `lib.inference.choice.choose_engine`.
    """

    def __init__(
        self, settings: Settings, published: str | Path, starter: str | Path, records: Path | None = None
    ) -> None:
        self._settings = settings
        self.published = Path(published)
        self.starter = Path(starter)
        self._records = records
        self._lock = threading.Lock()
        self._one_choice = threading.Lock()
        self._choice: threading.Thread | None = None
        self._loaded: dict[str, tuple[_Identity, Model]] = {}
        self._verdict: _Identity | None = None  # on int8, when the engine was chosen
        self._version: tuple[_Identity, str] | None = None

    def __reduce__(self) -> tuple[type, tuple[Settings, Path, Path, Path | None]]:
        """In another process it loads its own model."""
        return type(self), (self._settings, self.published, self.starter, self._records)

    @classmethod
    def of_app(cls, settings: Settings, app: str | Path) -> "ModelSource":
        """The source of an app folder: `model/<model_name>.pt` once there is one, `starter.pt` until then."""
        return cls(settings, Path(app) / "model" / f"{settings.model_name}.pt", Path(app) / "starter.pt")

    @property
    def path(self) -> Path:
        """The weights file in force now.

        Raises:
            ModelError: there is neither a published model nor a starter.
        """
        path = self.path_or_none
        if path is not None:
            return path
        msg = f"no weights: neither {self.published} nor {self.starter} exists; train a model or import weights"
        raise ModelError(msg)

    @property
    def path_or_none(self) -> Path | None:
        """The weights file in force now, None where an app has none yet."""
        return next((path for path in (self.published, self.starter) if path.is_file()), None)

    def get(self, device: torch.device) -> Model:
        """The model in force now, on `device`; safe to call from several threads.

        Raises:
            ModelError: no weights, or they do not fit the network of `app.yaml`.
        """
        with self._lock:
            identity = _identify(self.path)
            known = self._loaded.get(str(device))
            may_choose = device.type in {"cpu", "cuda"} and self._settings.inference.engine != "pytorch"
            if known and known[0] == identity:
                model = known[1]
                if not may_choose or _verdict_on_int8(model) == self._verdict:
                    return model
            else:
                model = load_model(self._settings, identity.path, device)
                self._loaded[str(device)] = (identity, model)
                self._version = (identity, model.version)
            if may_choose:
                self._verdict = _verdict_on_int8(model)
                self._choice = threading.Thread(target=self._hasten, args=(str(device), model), name="choose engine")
                self._choice.start()
            return model

    def wait(self) -> None:
        """Until the engine of the model that `get` loaded last is chosen."""
        choice = self._choice
        if choice is not None:
            choice.join()

    def _hasten(self, device: str, model: Model) -> None:
        """Replace a model that is still in force by one with its fastest engine."""
        with self._one_choice:
            with self._lock:
                current = self._loaded[device][1]
                if current.network is not model.network:
                    return
                model = current
            try:
                faster = model.hastened(self._settings, self._records)
            except Exception as error:  # nobody asked for this and nobody waits: PyTorch goes on
                logger.warning("model %s: PyTorch runs it, as choosing an engine failed: %s", model.version, error)
                return
        with self._lock:
            identity, current = self._loaded[device]
            if current is model:
                self._loaded[device] = (identity, faster)

    @property
    def version(self) -> str:
        """Version of the model in force now, without keeping the network.

        Raises:
            ModelError: no weights, or damaged ones.
        """
        with self._lock:
            identity = _identify(self.path)
            if self._version is None or self._version[0] != identity:
                self._version = (identity, load_model(self._settings, identity.path, torch.device("cpu")).version)
            return self._version[1]


def new_network(settings: Settings) -> nn.Module:
    """The network of `app.yaml` with fresh weights."""
    network = settings.network
    return build_network(network.name, len(settings.channels), settings.classes, network.arguments)


def made_for(settings: Settings) -> dict[str, Any]:
    """What weights are bound to beside the network: labels, channels, and the site's own windows among these."""
    return {
        "labels": settings.label_indices(),
        "channels": list(settings.channels),
        "windows": {
            name: settings.windows[name].model_dump() for name in settings.channels if name in settings.windows
        },
    }


def load_model(settings: Settings, path: str | Path, device: torch.device) -> Model:
    """Load weights strictly into the network of `app.yaml`.

    Raises:
        ModelError: damaged weights, or they do not fit the network, labels, channels or windows.
    """
    network = new_network(settings)
    meta = load_weights(path, network)
    for key, expected in made_for(settings).items():
        if key in meta and meta[key] != expected:
            msg = f"{path}: the weights were made for {key} {meta[key]}, but app.yaml says {expected}"
            raise ModelError(msg)
    network = network.to(device).to(memory_format=torch.channels_last).eval()
    version = version_of(path, meta)
    return Model(network, version, folder=version_folder(Path(path), version))


def version_of(path: str | Path, meta: Mapping[str, Any]) -> str:
    """The version of weights: what their `meta` says, a part of the file's checksum where it says nothing."""
    return str(meta.get("version") or f"sha256:{file_sha256(path)[:12]}")
