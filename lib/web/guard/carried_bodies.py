"""What the forms and the JSON bodies of each kind of request may hold, beside the files of forms."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, Json

from lib.web.guard.carried import (
    CONTROL,
    FORBIDDEN,
    CarriedText,
    ClientId,
    Number,
    OrEmpty,
    OwnPage,
    Reason,
    Tag,
    not_held,
    shown_key,
    unfit,
)
from lib.web.guard.carried_params import InferParams, Params, SaveLabelParams

_MOST_SECRET = 1024  # characters
_DEEPEST_NOTE = 4
_MOST_NOTED = 200  # values
_LARGEST_NOTE = 1e18
_LONGEST_NOTE, _LONGEST_KEY = 2000, 80
# What the server itself tells of an image beside the notes; a client that believes a note would write or read a file.
_TOLD = {"id", "name", "url", "uri", "file", "checksum", "lease"}
_T = TypeVar("_T")


def _or_empty(text: Any) -> Any:
    return text if text not in {None, ""} else "{}"


def _small(notes: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [notes]
    count = 0
    for _ in range(_DEEPEST_NOTE):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                _check_keys(one)
            below += one.values() if isinstance(one, dict) else one
        count += len(below)
        if count > _MOST_NOTED:
            raise unfit(f"at most {_MOST_NOTED} values")
        if any(isinstance(one, str) and (len(one) > _LONGEST_NOTE or CONTROL.search(one)) for one in below):
            raise unfit(f"texts of at most {_LONGEST_NOTE} characters, none of them control")
        if any(isinstance(one, int | float) and not abs(one) < _LARGEST_NOTE for one in below):  # infinity and NaN too
            raise unfit(f"numbers below {_LARGEST_NOTE:g}")
        level = [one for one in below if isinstance(one, dict | list)]
    if level:
        raise unfit(f"at most {_DEEPEST_NOTE} levels of objects and lists")
    return notes


def _check_keys(notes: dict[str, Any]) -> None:
    for key in notes:
        if not key or len(key) > _LONGEST_KEY or not key.isprintable():
            raise unfit(f"keys of 1 to {_LONGEST_KEY} characters that can be printed")
        if key.lower() in _TOLD or key.lower() in FORBIDDEN or key.lower().endswith(("_path", "_uri", "_url")):
            msg = f"{shown_key(key)}; notes hold no files, paths or addresses, and nothing that the server itself tells"
            raise not_held(msg)


JsonText = Annotated[Json[_T], BeforeValidator(_or_empty)]
# Whatever somebody wants to note about an image or a label.
Notes = Annotated[dict[str, Any], AfterValidator(_small)]


class NoForm(CarriedText):
    """Of a request that has no fields."""


class InferForm(CarriedText):
    """Of an inference."""

    params: JsonText[InferParams] = "{}"  # type: ignore[assignment]


class SaveLabelForm(CarriedText):
    """Of a label that is submitted."""

    params: JsonText[SaveLabelParams] = "{}"  # type: ignore[assignment]


class AddImageForm(CarriedText):
    """Of an image that is sent; its `params` are kept as notes about it."""

    params: JsonText[Notes] = "{}"  # type: ignore[assignment]


class InfoForm(CarriedText):
    """Of notes about an image or a label."""

    info: JsonText[Notes] = "{}"  # type: ignore[assignment]


class CreateSessionForm(CarriedText):
    """Of an image that is sent for a session."""

    client_id: ClientId | None = None


class TokenForm(CarriedText):
    """Of a login as OAuth 2 has it (RFC 6749, 4.3.2), from MONAI Label's clients."""

    username: str = Field(min_length=1, max_length=_MOST_SECRET)
    password: str = Field(min_length=1, max_length=_MOST_SECRET)
    grant_type: Literal["password", ""] = "password"
    scope: str = Field(default="", max_length=500)
    client_id: str | None = Field(default=None, max_length=_MOST_SECRET)
    client_secret: str | None = Field(default=None, max_length=_MOST_SECRET)


class LoginForm(CarriedText):
    """Of the login page, which says itself that something is missing."""

    name: str = Field(default="", max_length=_MOST_SECRET)
    password: str = Field(default="", max_length=_MOST_SECRET)
    next: Annotated[OwnPage, OrEmpty] = ""


class LogoutForm(CarriedText):
    """Of a logout: nothing but where to go then."""

    next: Annotated[OwnPage, OrEmpty] = ""


class Restoration(Params):
    """Which version becomes the newest again, and who wants that."""

    number: Number
    tag: Tag = "final"


class Decision(Params):
    """Why an image is left out or taken back in, and who decided."""

    reason: Reason


class Publication(Params):
    """Why a version is given to annotators, and who wants that."""

    reason: Reason
