"""What `params` may hold, for each kind of work; ranges are those of the settings that they change."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field

from lib.store.layout import FINAL
from lib.transforms.postprocessing import PostprocessingSettings
from lib.web.guard.carried import (
    Carried,
    ClientId,
    Device,
    Gpus,
    LogLevel,
    ModelName,
    Resume,
    RunName,
    Skip,
    Tag,
    VersionId,
    told_as,
    unfit,
    without_control,
)

_MOST_SEGMENTS = 256
_MOST_RANGES = 10_000
_MOST_SLICES = 100_000
_Class = Annotated[str, without_control(120, least=1)]
_Value = Annotated[int, Field(ge=0, le=255)]
_Idx = Annotated[int, Field(ge=0, le=65_535)]
_Channel = Annotated[float, Field(ge=0, le=255)]
_Slice = Annotated[int, Field(ge=0, lt=_MOST_SLICES)]


def _of_a_model(tag: str) -> str:
    """Else anybody could put a result into the place of somebody's label, under the name of the model."""
    if tag == FINAL:
        raise unfit("a tag such as 'original'; a final label is what a person submits, by PUT /datastore/label")
    return tag


class Params(Carried):
    """Base: who sent it, as MONAI Label's clients say; null where they were not told a name."""

    client_id: ClientId | None = None


class InferParams(Params, PostprocessingSettings):
    """Of one inference: 3D Slicer and OHIF send back what `/info/` says of the model, empty where nothing is chosen."""

    device: Device = "cuda"
    logging: LogLevel = "INFO"
    result_extension: Literal[".nrrd", ".nii.gz", ".nii", ".seg.nrrd", ""] | None = None
    result_dtype: Literal["uint8", ""] | None = None
    result_compress: bool = True
    result_write_to_file: bool = True
    planes: Literal["seg.nrrd", "images", ""] | None = None
    save_label: bool = False
    label_tag: Annotated[Tag, AfterValidator(_of_a_model)] = "original"
    restore_label_idx: bool = False  # of OHIF, without effect here
    label_prompt: list[_Value] = Field(default_factory=list, max_length=256)  # of OHIF as well


class BatchParams(InferParams):
    """Of an inference over many images."""

    again: bool = False
    multi_gpu: bool = True
    gpus: Gpus = "all"
    max_workers: int = Field(default=0, ge=0, le=1024, description="threads; 0: chosen by the cores")
    max_batch_size: int = Field(default=0, ge=0, lt=2**31, description="images; 0: all")


class TrainParams(Params):
    """Of one training."""

    name: RunName = "training"
    max_epochs: int = Field(default=50, ge=1, le=10_000)
    train_batch_size: int = Field(default=4, ge=1, le=1024)
    val_split: float = Field(default=0.2, ge=0, le=0.9)
    early_stop_patience: int = Field(default=0, ge=-1, lt=2**31, description="epochs; 0 and -1: never")
    device: Device = "cuda"
    start: VersionId = "published"
    pretrained: bool = True
    resume: Resume = False
    multi_gpu: bool = False
    gpus: Gpus = "all"
    logging: LogLevel = "INFO"


class AllTrainParams(TrainParams):
    """Of a training of every model: what counts for all, and by a model's name what counts for that."""

    NAMES_ALLOWED: ClassVar[bool] = True
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[ModelName, TrainParams]


class ScoringParams(Params):
    """Of one scoring method: on what device, which tags are compared."""

    device: Device = "cuda"
    gpus: Gpus = "all"
    logging: LogLevel = "INFO"
    y: Tag = "final"
    y_pred: Tag = "original"


class AllScoringParams(ScoringParams):
    """Of every scoring method: what counts for all, and by a method's name what counts for that."""

    NAMES_ALLOWED: ClassVar[bool] = True
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[ModelName, ScoringParams]


class NextSampleParams(Params):
    """Of a strategy: whether, or why, the image in hand is skipped. The last two are for other datastores."""

    skip: Skip = False
    label_tag: Tag | None = None
    labels: Annotated[list[_Class], Field(max_length=_MOST_SEGMENTS)] | None = None


class Segment(Carried):
    """What a value of a label means, see `lib.labels.remap`."""

    name: _Class
    idx: _Idx | None = None
    color: Annotated[list[_Channel], Field(min_length=3, max_length=4)] | None = None


_LabelInfo = Annotated[
    list[Segment],
    Field(max_length=_MOST_SEGMENTS),
    told_as(f"a list of at most {_MOST_SEGMENTS} objects such as {{'name': 'liver', 'idx': 1}}"),
]
_Ranges = Annotated[
    list[Annotated[list[_Slice], Field(min_length=2, max_length=2)]],
    Field(max_length=_MOST_RANGES),
    told_as("ranges of axial slices such as [[41, 48], [90, 95]], the lower end first"),
]


class SaveLabelParams(Params):
    """Of a label that is submitted."""

    label_info: _LabelInfo | None = None
    looked_at: _Ranges | None = None
