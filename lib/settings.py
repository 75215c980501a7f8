"""`app.yaml`: everything a site may change, checked key by key.

`docs/configuration.md` explains each key. An unknown key or a wrong value is one line that names the key, the value
and what is allowed; nothing starts with half-understood settings.
"""

import re
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from lib.access.settings import AccessSettings
from lib.errors import SettingsError
from lib.labels import DEFAULT_LABELS, IGNORED, RESERVED, Label, find_index, indices, plain
from lib.limits import MEGABYTE, MOST_VOXELS, Limits
from lib.transforms.augmentation_settings import AugmentationSettings
from lib.transforms.postprocessing import PostprocessingSettings
from lib.transforms.synthetic_tumors import SyntheticTumorSettings
from lib.transforms.windowing import HISTOGRAM, PRESETS, Window

# Label names become file names of planes, keys in .seg.nrrd headers and words on the screen.
_LABEL_NAME = re.compile(r"\w[^/\\:\x00-\x1f\x7f]*")
_HOURS = re.compile(r"((?:[01][0-9]|2[0-3]):[0-5][0-9])-((?:[01][0-9]|2[0-3]):[0-5][0-9])")


_Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _switches_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # In YAML `yes` and `on` are true, which would pass for 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in {int, float}:
            msg = "expected a number, not true or false"
            raise ValueError(msg)
        return value


class WindowSettings(_Section):
    """One window: width and level in HU."""

    width: int = Field(ge=2, le=8192)
    level: int = Field(ge=-2048, le=8192)


class NetworkSettings(_Section):
    """Which network; `arguments` go to its constructor."""

    name: str = "MulticlassUNet"
    arguments: dict[str, Any] = {}


class InferenceSettings(_Section):
    """How a volume goes through the network."""

    batch_slices: int = Field(default=4, ge=1, le=256)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    engine: Literal["auto", "pytorch", "openvino"] = "auto"
    int8: bool = Field(default=True, description="also in 8-bit integers on a CPU, where validation cases allow it")
    cascade: bool = Field(default=True, description="full resolution only around the liver")
    cascade_margin: int = Field(default=40, ge=0, le=1000, description="pixels around what the coarse pass finds")
    prefetch: bool = Field(default=True, description="segment an image as soon as it is handed out")
    cache_mb: int = Field(default=256, ge=0, description="of memory for finished results; 0 = none are kept")
    # Each waiting request takes one of the 40 threads that answer all requests.
    most_waiting: int = Field(default=16, ge=1, le=30, description="requests for the network; more get 503")


class GateSettings(_Section):
    """When a trained model replaces the published one; Dice and recall lie between 0 and 1."""

    minimum_gain: float = Field(default=0, ge=0, le=1, description="mean Dice difference that must be exceeded")
    most_loss: float = Field(default=0.01, ge=0, le=1, description="by which the mean Dice of any class may fall")
    most_recall_loss: float = Field(
        default=0.05, ge=0, le=1, description="by which the share of lesions found may fall"
    )
    confidence: float = Field(default=0, ge=0, lt=1, description="of the gain; 0 = the mean decides")


class ByItselfSettings(_Section):
    """When the server starts a training that nobody asked for."""

    after_labels: int = Field(default=0, ge=0, description="images with a new or corrected label; 0 = off")
    minutes_apart: float = Field(default=60, ge=0, allow_inf_nan=False, description="from the end of any training")
    hours: str = Field(default="", description="such as 19:00-07:00, local time; empty = at any time")
    niceness: int = Field(default=10, ge=0, le=19, description="of each training's process; 0 = as urgent as inference")

    @field_validator("hours", mode="before")
    @classmethod
    def _are_hours(cls, hours: Any) -> Any:
        if hours is None or hours == "":
            return ""
        found = _HOURS.fullmatch(hours) if isinstance(hours, str) else None
        if found and found[1] != found[2]:
            return hours
        reason = "which is no time at all" if found else "from 00:00 to 23:59, in quotes"
        msg = f"expected two different times of day such as '19:00-07:00', {reason}; leave it empty for any time"
        raise ValueError(msg)

    def opening(self) -> tuple[time, time] | None:
        """From when and until when trainings may start, local time; None: at any time."""
        found = _HOURS.fullmatch(self.hours)
        return (time.fromisoformat(found[1]), time.fromisoformat(found[2])) if found else None


class TrainingSettings(_Section):
    """The training recipe; `augmentation` has its own section."""

    max_epochs: int = Field(default=50, ge=1, le=10_000)
    batch_size: int = Field(default=4, ge=1, le=1024)
    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    loss: Literal["cross_entropy", "dice_cross_entropy"] = "dice_cross_entropy"
    class_weights: tuple[_Weight, ...] | None = None
    plateau_patience: int = Field(default=3, ge=0)
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    minimum_learning_rate: float = Field(default=1e-6, ge=0)
    validation_fraction: float = Field(default=0.2, ge=0, le=0.9)
    patient_pattern: str = Field(default="", description="regular expression: the part of a name that is the patient")
    cross_validate_below: int = Field(default=5, ge=0, description="patients; with fewer, cross-validation; 0 = never")
    patch_size: int = Field(default=256, ge=32, le=2048, multiple_of=16)
    slices_per_case: int = Field(default=24, ge=1)
    foreground_fraction: float = Field(default=0.7, ge=0, le=1)
    tumor_fraction: float = Field(default=0.4, ge=0, le=1)
    early_stop_patience: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 = all cores but one, at least one")
    cache_gb: float = Field(default=50, gt=0, allow_inf_nan=False, description="of decoded cases on the disk")
    gate: GateSettings = GateSettings()
    by_itself: ByItselfSettings = ByItselfSettings()

    @field_validator("gate", "by_itself", mode="before")
    @classmethod
    def _empty_sections_have_defaults(cls, section: Any) -> Any:
        return {} if section is None else section  # null in YAML where all its keys are commented out

    @field_validator("patient_pattern")
    @classmethod
    def _is_an_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            msg = f"not a regular expression: {error}"
            raise ValueError(msg) from error
        return pattern

    @model_validator(mode="after")
    def _limits_fit(self) -> "TrainingSettings":
        if self.tumor_fraction > self.foreground_fraction:
            msg = f"tumor_fraction {self.tumor_fraction} exceeds foreground_fraction {self.foreground_fraction}"
            raise ValueError(msg)
        if self.minimum_learning_rate > self.learning_rate:
            msg = f"minimum_learning_rate {self.minimum_learning_rate} exceeds learning_rate {self.learning_rate}"
            raise ValueError(msg)
        return self


class ActiveLearningSettings(_Section):
    """Which strategies clients are offered, the default first, and how images are scored for them.

    Which strategies there are is known to `lib.activelearning.strategies`, which looks at the names when an app starts.
    """

    strategies: tuple[str, ...] = Field(
        default=(
            "hybrid", "class_balanced", "entropy", "bald", "diversity", "foreground_random",
            "random", "first", "review",
        ),
        min_length=1,
    )  # fmt: skip
    planned_labels: int = Field(default=100, ge=1, le=10_000_000, description="that the campaign is to have in the end")
    score_when_idle: bool = Field(default=True, description="score unlabelled images while nobody waits")
    scoring: tuple[Literal["dice", "scores"], ...] = ("dice", "scores")
    dropout_passes: int = Field(default=5, ge=2, le=50)
    slices_per_score: int = Field(default=8, ge=1, description="slices of the liver that get dropout passes")


class StoreSettings(_Section):
    """How the studies folder is watched and handed out."""

    lease_minutes: float = Field(default=60, gt=0, le=10_080, description="how long an image is kept for its annotator")
    rescan_minutes: float = Field(default=10, gt=0, description="between two looks through the whole folder")


class PacsStoreSettings(_Section):
    """How images come from a PACS, where --studies is its address; the login is in environment variables."""

    folder: str = Field(default="", description="for labels, ledger and fetched images; empty: pacs/ in the app's")
    cache_gb: float = Field(default=100, gt=0, allow_inf_nan=False, description="of fetched images on the disk")
    poll_seconds: float = Field(default=30, ge=1, allow_inf_nan=False, description="between two looks for new studies")
    connect_seconds: float = Field(default=5, gt=0, allow_inf_nan=False, description="to wait for a connection")
    read_seconds: float = Field(default=30, gt=0, allow_inf_nan=False, description="to wait for more of an answer")


class LimitSettings(_Section):
    """What the server refuses."""

    affine_tolerance_mm: float = Field(default=1.0, gt=0, description="how far a label may lie from its image")
    upload_mb: float = Field(default=4096, gt=0, le=1_000_000, description="of one request")
    unpacked_mb: float = Field(default=8192, gt=0, le=1_000_000, description="of the voxels or files of one upload")
    voxels: int = Field(default=MOST_VOXELS, ge=1, le=MOST_VOXELS, description="of one volume that is sent")
    archive_files: int = Field(default=20_000, ge=1, le=1_000_000, description="in one archive, or sent together")
    sessions: int = Field(default=50, ge=1, le=10_000, description="kept at once; the longest unused go first")
    sessions_mb: float = Field(default=20_480, gt=0, le=100_000_000, description="that all sessions may take")

    def of_files(self) -> Limits:
        """Those of files and archives."""
        return Limits(self.voxels, int(self.unpacked_mb * MEGABYTE), self.archive_files)


class ServerSettings(_Section):
    """The server's process."""

    stop_seconds: float = Field(default=30, ge=0, le=3600, description="for requests that run when it is stopped")


class Settings(_Section):
    """The whole of `app.yaml`, validated."""

    name: str = "LiverLoop"
    description: str = (
        "Active learning for liver and liver-tumor segmentation in CT. Research software, not for clinical use."
    )
    model_name: str = Field(default="liver_tumor", pattern=r"^[A-Za-z0-9_\-]+$")
    ledger: str = Field(default="", description="the database; empty: SQLite in the studies folder")
    labels: dict[str, Label] = Field(default=DEFAULT_LABELS, min_length=1)
    windows: dict[str, WindowSettings] = {}
    channels: tuple[str, ...] = ("liver", "custom", HISTOGRAM)
    network: NetworkSettings = NetworkSettings()
    inference: InferenceSettings = InferenceSettings()
    postprocessing: PostprocessingSettings = PostprocessingSettings()
    training: TrainingSettings = TrainingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    synthetic_tumors: SyntheticTumorSettings = SyntheticTumorSettings()
    active_learning: ActiveLearningSettings = ActiveLearningSettings()
    store: StoreSettings = StoreSettings()
    pacs: PacsStoreSettings = PacsStoreSettings()
    limits: LimitSettings = LimitSettings()
    access: AccessSettings = AccessSettings()
    server: ServerSettings = ServerSettings()

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_have_defaults(cls, content: Any) -> Any:
        # A section whose keys are all commented out is null in YAML.
        return (
            {key: value for key, value in content.items() if value is not None}
            if isinstance(content, dict)
            else content
        )

    @field_validator("labels")
    @classmethod
    def _labels_are_distinct(cls, labels: dict[str, Label]) -> dict[str, Label]:
        found = sorted(label.index for label in labels.values())
        if found != list(range(1, len(labels) + 1)):
            msg = f"label indices must be 1..{len(labels)} without gaps, not {found}"
            raise ValueError(msg)
        spellings: dict[str, str] = {}
        for name, label in labels.items():
            if not _LABEL_NAME.fullmatch(name):
                msg = (
                    f"the label name {name!r} must begin with a letter or digit and hold no / \\ : or control character"
                )
                raise ValueError(msg)
            for spelling in {plain(name), *map(plain, label.aliases)}:
                if spelling in RESERVED:
                    what = "index 0" if spelling in IGNORED else "slices that were looked at, or not,"
                    msg = f"{spelling!r} means {what} to clients and can't name the label {name!r}"
                    raise ValueError(msg)
                other = spellings.setdefault(spelling, name)
                if other != name:
                    msg = f"the labels {other!r} and {name!r} both go by {spelling!r}; give each name to one label"
                    raise ValueError(msg)
        return labels

    @field_validator("windows")
    @classmethod
    def _windows_are_windows(cls, windows: dict[str, WindowSettings]) -> dict[str, WindowSettings]:
        if HISTOGRAM in windows:
            msg = f"{HISTOGRAM!r} is the channel of spread gray values and can't name a window"
            raise ValueError(msg)
        return windows

    @model_validator(mode="after")
    def _channels_are_known(self) -> "Settings":
        known = {*PRESETS, *self.windows, HISTOGRAM}
        unknown = [channel for channel in self.channels if channel not in known]
        if unknown or not self.channels:
            msg = f"channels {list(self.channels)} must be one or more of {sorted(known)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _class_weights_fit(self) -> "Settings":
        weights = self.training.class_weights
        if weights is not None and len(weights) != self.classes:
            msg = f"training.class_weights must have {self.classes} values (background first), not {len(weights)}"
            raise ValueError(msg)
        return self

    @property
    def classes(self) -> int:
        """Number of network outputs: background and the labels."""
        return len(self.labels) + 1

    @property
    def has_liver_and_tumor(self) -> bool:
        """Whether the classes are liver (1) and tumor (2), whose anatomy some steps know."""
        return all(find_index(name, DEFAULT_LABELS) == label.index for name, label in self.labels.items())

    def label_indices(self) -> dict[str, int]:
        """`{"liver": 1, "tumor": 2}` in index order."""
        return indices(self.labels)

    def blend_channels(self) -> tuple[Window | str, ...]:
        """The network's input channels for `lib.transforms.windowing.blend`, site windows before presets."""
        custom = {name: Window(window.width, window.level) for name, window in self.windows.items()}
        return tuple(custom.get(channel, channel) for channel in self.channels)


def load_settings(path: str | Path, overrides: Mapping[str, str] | None = None) -> Settings:
    """Read `app.yaml` and apply `--conf key value` overrides.

    Args:
        path: the YAML file.
        overrides: dotted keys to YAML values, such as `{"training.max_epochs": "5"}`.

    Raises:
        SettingsError: the file is missing or not YAML, a key is unknown or a value is wrong; the message is one line
            that names the key.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        msg = f"can't read the settings {path}: {error.strerror}"
        raise SettingsError(msg) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is not valid YAML: {' '.join(str(error).split())}"
        raise SettingsError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} must hold keys and values, not {type(content).__name__}"
        raise SettingsError(msg)
    for key, value in (overrides or {}).items():
        _override(content, key, value)
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(_one_line(error, path, overrides or {})) from error


def _override(content: dict[str, Any], key: str, value: str) -> None:
    *parents, last = key.split(".")
    if not all((*parents, last)):
        msg = f"--conf {key!r} is not a key such as training.max_epochs"
        raise SettingsError(msg)
    section = content
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            msg = f"--conf {key}: {parent} is a single value in app.yaml, not a section"
            raise SettingsError(msg)
    try:
        section[last] = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        msg = f"--conf {key}: {value!r} is not a valid YAML value"
        raise SettingsError(msg) from error


def _one_line(error: ValidationError, path: Path, overrides: Mapping[str, str]) -> str:
    problems = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        overridden = any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for name in overrides)
        source = "--conf" if overridden and key else path.name
        if problem["type"] == "extra_forbidden":
            problems.append(f"{source}: unknown key {key}")
        elif problem["type"] == "missing":
            problems.append(f"{source}: {key} is missing")
        elif problem["type"] == "value_error" and isinstance(problem["input"], dict):
            # Our own checks across several values; their message names those that matter.
            problems.append(f"{source}: {key}{': ' if key else ''}{problem['msg'].removeprefix('Value error, ')}")
        else:
            shown = repr(problem["input"])
            shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
            problems.append(f"{source}: {key} = {shown}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems) + " (docs/configuration.md lists every key)"
