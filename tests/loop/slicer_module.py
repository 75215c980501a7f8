"""What 3D Slicer's MONAI Label module does, without 3D Slicer: the same requests, parameters and order.

Written after the public source of the module (plugins/slicer of Project-MONAI/MONAILabel) and of 3D Slicer's Sample
Data module, which downloads images. Arrays of segments are `(Z, Y, X)`, as SimpleITK gives them.
"""

import hashlib
import os
import tempfile
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_plus

import numpy as np
import SimpleITK
from monailabel.client import MONAILabelClient
from numpy.typing import NDArray

_NEVER_SENT = {"background", "foreground_scribbles", "background_scribbles"}
_T = TypeVar("_T")
_SECTIONS = ("models", "trainers", "strategies", "scoring")


class DialogError(Exception):
    """The module shows an error; the message is its title and the details that can be unfolded."""


class SlicerModule:
    """One annotator's 3D Slicer with the module open.

    Args:
        url: of the server.
        folder: gets downloads and what is sent.
        name: the user name in the module's settings, which has this one unless somebody enters another.
        shares_files: 3D Slicer sees the server's files under the same paths.
        extension: of the files sent, from the module's settings.
        login: user name and password, which are typed into the dialog each time it is shown.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        name: str = "user-xyz",
        *,
        shares_files: bool = False,
        extension: str = ".nii.gz",
        login: tuple[str, str] | None = None,
    ) -> None:
        self.url, self.name, self.extension = url, name, extension
        self.cache, self._temporary = folder / "RemoteIO", folder / "slicer-monai-label"
        for path in (self.cache, self._temporary):
            path.mkdir(parents=True, exist_ok=True)
        self._shares_files = shares_files
        self._login: tuple[str, str] | None = login
        self._typed: tuple[str, str] | None = None
        self._token: dict[str, Any] | None = None
        self.dialogs = 0  # how often it asked for name and password
        self.info: dict[str, Any] = {}
        self.downloads = 0
        self.training_shown: list[float] | None = None  # what its progress bar showed, None while no timer runs
        self.close_scene()

    def close_scene(self) -> None:
        """Forget image and segments, as before each next image."""
        self.sample: dict[str, Any] | None = None
        self.volume: SimpleITK.Image | None = None
        self.volume_name = ""
        self.segments: dict[str, NDArray[np.bool_]] = {}

    @property
    def client(self) -> MONAILabelClient:
        """A new one for each request, logged in where the server asks for that; a login that fails is asked anew."""
        client = MONAILabelClient(self.url, str(self._temporary), self.name)
        if client.auth_enabled():
            if self._typed is None:
                self.dialogs += 1
                self._typed = self._login or ("", "")
            if self._token:
                client.update_auth(self._token)
            if not self._token or not client.auth_valid_token():
                try:
                    self._token = client.auth_token(*self._typed)
                    client.update_auth(self._token)
                except Exception:  # the request that follows is refused, and that is shown
                    self._typed = self._token = None
        return client

    # -- the green arrow

    def connect(self) -> None:
        """Ask for what the server has, and fill the panels and the options table from it."""
        self.info = _or_error("Failed to fetch models from remote server", self.client.info)
        if self.info.get("config"):
            raise DialogError("Please upgrade the monai server to latest version")
        self._fill_panels()
        self.options = {section: self._options_of(section) for section in _SECTIONS}

    def models_of(self, *types: str) -> list[str]:
        """What a selector offers."""
        offered = [
            (name, model["description"]) for name, model in self.info["models"].items() if model["type"] in types
        ]
        return [name for name, _ in offered]

    def _fill_panels(self) -> None:
        self.panels = {
            "segmentation": self.models_of("segmentation"),
            "deepgrow": self.models_of("deepgrow", "deepedit"),
            "scribbles": self.models_of("scribbles"),
        }
        self.strategies = [_text(name) for name in self.info.get("strategies", {})]
        trainers = [_text(name) for name in self.info.get("trainers", {})]
        self.trainers = ["ALL", *trainers] if trainers else []
        counts = self.info.get("datastore", {})
        self.labelled, self.total = counts.get("completed", 0), counts.get("total", 0)
        self.tooltip = f"{self.labelled}/{self.total} samples are labeled"
        self.active_learning_bar = self.labelled / max(self.total, 1) * 100
        self.accuracy = f"Accuracy: {self._first_stats().get('best_metric', 0):.4f}"
        running = bool(self.info) and self.client.train_status(True)
        self.can_train, self.can_stop = bool(not running and self.labelled), running
        if running and self.training_shown is None:
            self.training_shown = []

    def _first_stats(self) -> dict[str, Any]:
        stats = self.info.get("train_stats", {})
        return dict(next(iter(stats.values()))) if stats else {}

    def _options_of(self, section: str) -> dict[str, dict[str, Any]]:
        """Name by name the options as the table shows them and gives them back."""
        known = self.info.get(section, {})
        return {name: {key: through_table(v) for key, v in known[name].get("config", {}).items()} for name in known}

    def choose(self, section: str, name: str, key: str, value: Any) -> None:
        """Change a value in the options table."""
        current = self.options[section][name][key]
        if isinstance(current, list):
            assert value in current
            value = [value, *[other for other in current if other != value]]
        self.options[section][name][key] = value

    def _params(self, section: str, name: str | None) -> dict[str, Any]:
        config = self.options[section].get(name or "", {})
        return {key: value[0] if isinstance(value, list) else value for key, value in config.items()}

    # -- Next Sample

    def next_sample(self, strategy: str | None = None) -> str | None:
        """Load the next image with its original label; None where the server has none to label."""
        self.close_scene()
        chosen = strategy or self.strategies[0]
        return _or_error(
            "Failed to fetch Sample from MONAI Label Server", lambda: self._fetch_next(chosen)
        )  # fmt: skip

    def _fetch_next(self, strategy: str) -> str | None:
        sample = self.client.next_sample(strategy, self._params("strategies", strategy))
        if not sample.get("id"):
            return None
        image_id, path = sample["id"], sample.get("path")
        if self._shares_files and path and os.path.exists(path):
            self.volume = SimpleITK.ReadImage(str(path))
        else:
            uri = f"{self.url}/datastore/image?image={quote_plus(image_id)}"
            self.volume = self._downloaded(uri, sample.get("name", image_id), sample.get("checksum"))
        self.volume_name = sample.get("PatientID", sample.get("name", image_id))
        self._begin(sample)
        self._load_original(image_id)
        return str(image_id)

    def _downloaded(self, uri: str, name: str, checksum: str | None) -> SimpleITK.Image:
        """As Sample Data does it: a file of this name that is there already is taken unless its checksum differs."""
        target = self.cache / name
        for _ in range(3):
            if target.exists() and checksum is not None and _checksum(target) != checksum:
                target.unlink()
            if not target.exists():
                urllib.request.urlretrieve(uri, target)
                self.downloads += 1
            if checksum is None or _checksum(target) == checksum:
                return SimpleITK.ReadImage(str(target))
            target.unlink()
        raise ValueError(f"{name} can't be loaded")

    def _load_original(self, image_id: str) -> None:
        """The label with the tag original, if there is one; whatever goes wrong, the module goes on without."""
        self.original_shown = False
        labels = self.client.datastore()["objects"][image_id]["labels"]
        if "original" in labels:
            names = labels["original"]["info"]["params"]["label_names"]
            self._show(self.client.download_label(image_id, "original"), list(names.keys()))
            self.original_shown = True

    def load_own(self, path: Path, name: str) -> None:
        """Open an image that the server does not have."""
        self.close_scene()
        self.volume, self.volume_name = SimpleITK.ReadImage(str(path)), name
        self._begin({"id": name, "session": True})

    def _begin(self, sample: dict[str, Any]) -> None:
        self.sample = sample
        for name in self.info["labels"]:
            self.segments.setdefault(name, np.zeros(SimpleITK.GetArrayViewFromImage(self.volume).shape, np.bool_))

    # -- Auto Segmentation

    def segment(self) -> dict[str, Any]:
        """Run the first segmentation model and show its result; returns the parameters of the answer."""
        return _or_error("Failed to run inference in MONAI Label Server", self._segmented)

    def _segmented(self) -> dict[str, Any]:
        assert self.sample is not None
        model = self.panels["segmentation"][0]
        params = self._params("models", model) | {"result_extension": ".nrrd", "result_dtype": "uint8"}
        path, answer = self.client.infer(model, self.sample["id"], params, None, None, self._session())
        names = answer.get("label_names") or self.info["models"][model]["labels"]
        if isinstance(names, dict):
            names = [name for name, _ in sorted(names.items(), key=lambda item: item[1])]
        self.result = SimpleITK.ReadImage(path)
        self._show(path, names)
        os.unlink(path)
        return dict(answer)

    def _session(self) -> str | None:
        assert self.sample is not None
        if not self.sample.get("session"):
            return None
        session = self.sample.get("session_id")
        if not session or not self.client.get_session(session):
            self.sample["session_id"] = self.client.create_session(self._written(self.volume))["session_id"]
        return str(self.sample["session_id"])

    def _show(self, path: str, names: list[str]) -> None:
        """A label's value k becomes the k-th segment."""
        label = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
        for value, name in enumerate([name for name in names if name != "background"], start=1):
            self.segments[name] = label == value

    # -- Submit Label

    def submit(self) -> dict[str, Any]:
        """Send the segments; an image of one's own is uploaded first. Returns what the module shows of the answer."""
        assert self.sample is not None
        if self.sample.get("session"):
            self.upload()
        result = _or_error("Failed to save Label to MONAI Label Server", self._saved)
        self.connect()
        return result

    def upload(self) -> None:
        """Send an image of one's own under the name that it has in 3D Slicer."""
        assert self.sample is not None
        path = self._written(self.volume)
        _or_error(
            "Failed to upload volume to Server", lambda: self.client.upload_image(path, self.volume_name)
        )  # fmt: skip
        self.sample["session"] = False

    def exported(self) -> tuple[SimpleITK.Image, list[dict[str, Any]]]:
        """The segments as one label, the k-th of those that are sent as value k, and what is said about them."""
        kept = [(place, name) for place, name in enumerate(self.segments, start=1) if name not in _NEVER_SENT]
        array = np.zeros(SimpleITK.GetArrayViewFromImage(self.volume).shape, np.uint8)
        for value, (_, name) in enumerate(kept, start=1):
            array[self.segments[name]] = value
        label = SimpleITK.GetImageFromArray(array)
        label.CopyInformation(self.volume)
        return label, [{"name": name, "idx": place} for place, name in kept]

    def _saved(self) -> dict[str, Any]:
        assert self.sample is not None
        label, label_info = self.exported()
        params = {"label_info": label_info}
        return dict(self.client.save_label(self.sample["id"], self._written(label), params=params))

    def _written(self, image: SimpleITK.Image) -> str:
        with tempfile.NamedTemporaryFile(suffix=self.extension, dir=self._temporary, delete=False) as file:
            SimpleITK.WriteImage(image, file.name)
        return file.name

    # -- Update Model

    def train(self, trainer: str = "ALL") -> dict[str, Any]:
        """Start a training of one trainer or of all."""
        model = None if trainer == "ALL" else trainer
        params = self._params("trainers", model)
        status = _or_error(
            "Failed to run training in MONAI Label Server", lambda: self.client.train_start(model, params)
        )  # fmt: skip
        return dict(status)

    def look_at_training(self) -> str:
        """What the timer does every five seconds while a training runs; returns the status."""
        assert self.training_shown is not None
        status = self.client.train_status(False)
        if status.get("status") == "RUNNING":
            self.info = self.client.info()
            stats = self._first_stats()
            if stats:
                epoch = 0 if stats.get("total_time") else stats.get("epoch", 1)
                self.training_shown.append(max(1, 100 * epoch / stats.get("total_epochs", 1)))
                self.accuracy = f"Accuracy: {stats.get('best_metric', 0):.4f}"
            return "RUNNING"
        self.training_shown = None
        self.connect()
        return str(status.get("status", "DONE"))

    def stop_training(self) -> str | None:
        """Stop it; returns what the log says of that, None where nothing ran."""
        status = _or_error("Failed to stop Training Task", self.client.train_stop)
        if not status:
            return None
        last = status.get("details", [])[-1]  # looked up in any case, and not caught
        self.connect()
        return f"Status: {status.get('status')}\nEnd Time: {status.get('end_ts')}\nResult: {status.get('result', last)}"


def _or_error(title: str, action: Callable[[], _T]) -> _T:
    """The module shows any failure of a request with the whole trace as its details."""
    try:
        return action()
    except Exception:
        raise DialogError(f"{title}\n{traceback.format_exc()}") from None


def through_table(value: Any) -> Any:
    """A value of the options as it comes back from the table, which knows check boxes, choices of texts and texts."""
    if isinstance(value, dict | list):
        choices = [_text(choice) for choice in value]
        return choices if isinstance(value, list) else choices[0]
    if isinstance(value, bool):
        return value
    text = str(value) if value else ""
    if isinstance(value, int):
        return int(text) if text else 0
    if isinstance(value, float):
        return float(text) if text else 0.0
    return text


def _text(value: Any) -> str:
    """A choice in a box, which takes texts only."""
    assert isinstance(value, str), f"{value!r} is no text"
    return value


def _checksum(path: Path) -> str:
    return f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
