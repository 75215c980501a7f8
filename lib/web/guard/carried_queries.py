"""What may stand after the question mark of each kind of request."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lib.store.door import checked_identifier
from lib.web.guard.carried import (
    CarriedText,
    Checksum,
    ClientId,
    ImageId,
    ModelName,
    Number,
    OrEmpty,
    OwnPage,
    SessionId,
    Tag,
    VersionId,
)

_LONGEST_NAME = 500
_LONGEST_SESSION_S = 7 * 24 * 3600
_Limit = Annotated[int, Field(ge=1, le=1000)]


class InAddress(CarriedText):
    """The values in the paths of all routes, by the names that they have there."""

    model: ModelName | None = None
    strategy: ModelName | None = None
    method: ModelName | None = None
    session_id: SessionId | None = None
    image: ImageId | None = None
    tag: Tag | None = None
    number: Number | None = None
    version: VersionId | None = None


class NoQuery(CarriedText):
    """Of a request that has none."""


class StatusQuery(CarriedText):
    """Of a training, scoring or batch: all of them, or only whether one runs."""

    all: bool = False
    check_if_running: bool = False


class DatastoreQuery(CarriedText):
    """How much is told of the images."""

    output: Literal["train", "stats", "all"] | None = None


class ImageQuery(CarriedText):
    """Which image is read or described."""

    image: ImageId


class CheckImageQuery(ImageQuery):
    """Whether an image is there, and the same."""

    check_sum: Checksum | None = None


class AddImageQuery(CarriedText):
    """The id of an image that is sent; empty: its file's name."""

    image: Annotated[ImageId, OrEmpty] | None = None


class RemoveImageQuery(CarriedText):
    """Which image is removed."""

    id: ImageId


class LabelQuery(CarriedText):
    """Which label is read or described."""

    label: ImageId
    tag: Tag


class CheckLabelQuery(CarriedText):
    """Whether a label is there; MONAI Label calls it by its image here."""

    image: ImageId
    tag: Tag


class SaveLabelQuery(CarriedText):
    """Whose label is sent."""

    image: ImageId
    tag: Annotated[Tag, OrEmpty] = "final"


class RemoveLabelQuery(CarriedText):
    """Which label is removed."""

    id: ImageId
    tag: Tag


class InferQuery(CarriedText):
    """What is segmented, where that is no file, and how the result is sent.

    Beside a session, 3D Slicer sends the name of its volume, which may be anything such as "5: Abdomen/Pelvis".
    """

    image: str = Field(default="", max_length=_LONGEST_NAME)
    session_id: Annotated[SessionId, OrEmpty] = ""
    output: Literal["image", "json", "all", "dicom_seg"] | None = None  # the last is refused with a reason

    @model_validator(mode="after")
    def _check_image(self) -> "InferQuery":
        if self.image and not self.session_id:
            checked_identifier(self.image, "image id")
        return self


class SessionQuery(CarriedText):
    """Whether a session's image is sent, or its time begins anew."""

    update_ts: bool = False
    image: bool = False


class CreateSessionQuery(CarriedText):
    """How what is sent becomes a session."""

    uncompress: bool = False
    expiry: int = Field(default=0, ge=0, le=_LONGEST_SESSION_S, description="seconds; 0: the server's own")


class RunQuery(CarriedText):
    """Of a scoring, or of several trainings or scorings: whether the answer waits for the end."""

    run_sync: bool = False


class TrainQuery(RunQuery):
    """Of one training: also whether it waits for one that runs."""

    enqueue: bool = False


class BatchQuery(RunQuery):
    """Of a batch: also which images."""

    images: Literal["all", "labeled", "unlabeled"] = "all"


class HistoryQuery(CarriedText):
    """Which versions are listed."""

    tag: Tag | None = None


class DiffQuery(CarriedText):
    """Which versions are compared."""

    first: Number
    second: Number
    tag: Tag = "final"


class ReleaseQuery(CarriedText):
    """Who takes an image back."""

    client_id: ClientId | None = None


class RefusedQuery(CarriedText):
    """Which refused labels are listed."""

    image: ImageId | None = None
    limit: _Limit = 100


class EventsQuery(RefusedQuery):
    """Which events are listed."""

    after: int = Field(default=0, ge=0, lt=2**63)


class CompareQuery(CarriedText):
    """Which model versions are compared."""

    first: VersionId
    second: VersionId


class ExportQuery(CarriedText):
    """As what a model version is exported."""

    format: Literal["torchscript", "onnx", "bundle"]


class LoginQuery(CarriedText):
    """Where a browser goes after the login."""

    next: Annotated[OwnPage, OrEmpty] = ""
