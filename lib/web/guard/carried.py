"""What a request may carry: the base of all models, the kinds of values, and refusals in words for people.

Everything that is not named by a model is refused. The models themselves are in `carried_params`, `carried_queries`
and `carried_bodies`.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from lib.errors import BadInputError
from lib.inference.version_folder import VERSION_ID
from lib.store.door import checked_identifier
from lib.store.layout import checked_tag
from lib.web.clients import checked_client_id

_MOST_TOLD = 3  # errors, unknown keys, similar ones
_LONGEST_SHOWN = 80  # characters of a value
_LONGEST_WORDS = 500
_LONGEST_DEVICE = 120
_MOST_DEVICES = 64
# Nobody reads these in an answer or a log: the first are secret, the others may name a patient.
_NEVER_SHOWN = {"password", "token", "client_secret", "reason", "skip", "info", "next"}
# What of an error's place is a whole request and no word that a client would write.
_WHOLES = {"address", "query", "form", "body"}
_BY_ADDRESS = "images, models, strategies and methods are named in the request's address"
# MONAI Label's own keys: a client that sets them could read or write any file, or run code.
FORBIDDEN = {
    "image": _BY_ADDRESS, "images": _BY_ADDRESS, "label": _BY_ADDRESS, "model": _BY_ADDRESS, "method": _BY_ADDRESS,
    "strategy": _BY_ADDRESS, "session": "name a session by session_id in the request's address",
    "skip_writer": "result_write_to_file = false answers with the figures alone",
    **dict.fromkeys(
        ("image_path", "bundle_path", "model_filename", "train_ds", "val_ds", "training_by_itself", "local_rank",
         "distributed_url", "run_id", "background", "sent_once", "user", "path"),
        "that is set by the server itself",
    ),
}  # fmt: skip
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_GPUS = re.compile(r"all|[0-9]{1,3}(,[0-9]{1,3}){0,31}|")
_CHECKSUM = re.compile(r"([A-Za-z0-9-]{1,10}:)?[0-9A-Fa-f]{8,128}")
_OWN_PAGE = re.compile(r"/(?![/\\])[!-\[\]-~]{0,1999}")  # of this server: no other host, no backslash

# What is wrong, as pydantic calls it -> what is expected, made from what it says about that.
_EXPECTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "literal_error": lambda told: told["expected"],
    "greater_than_equal": lambda told: f"at least {_plain(told['ge'])}",
    "less_than": lambda told: f"less than {_plain(told['lt'])}",
    "less_than_equal": lambda told: f"at most {_plain(told['le'])}",
    "string_too_short": lambda told: _counted("at least", told["min_length"], "character", "characters"),
    "string_too_long": lambda told: _counted("at most", told["max_length"], "character", "characters"),
    "too_short": lambda told: _counted("at least", told["min_length"], "entry", "entries"),
    "too_long": lambda told: _counted("at most", told["max_length"], "entry", "entries"),
    "unfit": lambda told: told["expected"],
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), lambda told: "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), lambda told: "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), lambda told: "true or false"),
    **dict.fromkeys(("string_type", "string_unicode"), lambda told: "text"),
    "list_type": lambda told: "a list",
}


def unfit(expected: str) -> PydanticCustomError:
    """The error of a value that is not what is expected."""
    return PydanticCustomError("unfit", "expected {expected}", {"expected": expected})


def not_held(told: str) -> PydanticCustomError:
    """The error of an object with keys that are not allowed; `told` names them and the remedy."""
    return PydanticCustomError("unknown_key", "must not hold {told}", {"told": told})


def matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    """Text that a pattern describes in full."""

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise unfit(expected)
        return value

    return AfterValidator(check)


def told_as(expected: str) -> WrapValidator:
    """Whatever is wrong within a value is told as this, where the parts would say little to whoever sent it."""

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise unfit(expected) from None

    return WrapValidator(check)


def without_control(most: int, least: int = 0) -> AfterValidator:
    """Text of so many characters in one or more lines; spaces around one that must not be empty are dropped."""
    expected = f"{least} to {most} characters, none of them control" if least else (
        f"at most {most} characters, none of them control"
    )  # fmt: skip

    def check(value: str) -> str:
        if not least <= len(value.strip() if least else value) <= most or CONTROL.search(value):
            raise unfit(expected)
        return value.strip() if least else value

    return AfterValidator(check)


def _or_empty(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return value if value == "" else check(value)


def _device(value: Any) -> Any:
    names = value if isinstance(value, list) else [value]
    fits = 0 < len(names) <= _MOST_DEVICES and all(
        isinstance(name, str) and len(name) <= _LONGEST_DEVICE and name.isprintable() for name in names
    )
    if not fits:
        raise unfit("a device's name such as 'cpu' or 'cuda'")
    return value


def _log_level(value: str) -> str:
    if value.upper() not in logging.getLevelNamesMapping():
        raise unfit("a log level such as 'INFO'")
    return value


def _skip(value: Any) -> Any:
    fits = isinstance(value, bool) or (
        isinstance(value, str) and len(value) <= _LONGEST_WORDS and not CONTROL.search(value)
    )
    if not fits:
        raise unfit(f"true, false or why, in at most {_LONGEST_WORDS} characters")
    return value


def _resume(value: Any) -> Any:
    if not isinstance(value, bool) and not (isinstance(value, str) and VERSION_ID.fullmatch(value)):
        raise unfit("true, false or the name of an interrupted training")
    return value


ImageId = Annotated[str, AfterValidator(lambda value: checked_identifier(value, "image id"))]
Tag = Annotated[str, AfterValidator(checked_tag)]
RunName = Annotated[str, AfterValidator(lambda value: checked_identifier(value, "run name"))]
ClientId = Annotated[str, AfterValidator(checked_client_id)]
SessionId = Annotated[str, matching(_SESSION, "the session_id that PUT /session/ answered with")]
# Also of a strategy or scoring method.
ModelName = Annotated[str, matching(_NAME, "a name of at most 80 letters, digits, '_', '.' or '-'")]
VersionId = Annotated[str, matching(VERSION_ID, "the id of a model version, 'published' or 'starter'")]
Checksum = Annotated[str, matching(_CHECKSUM, "a checksum such as 'SHA256:' and its hexadecimal digits")]
OwnPage = Annotated[str, matching(_OWN_PAGE, "a page of this server such as '/ohif/'")]
Reason = Annotated[str, without_control(_LONGEST_WORDS, least=1)]
OrEmpty = WrapValidator(_or_empty)  # beside one of the above: what an empty field of a form or query holds
Device = Annotated[str | list[str], PlainValidator(_device)]  # as in `/info/`, where it is a list to choose from
Gpus = Annotated[str, matching(_GPUS, "'all' or numbers such as '0,1'")]
LogLevel = Annotated[str, AfterValidator(_log_level)]
Skip = Annotated[bool | str, PlainValidator(_skip)]
Resume = Annotated[bool | str, PlainValidator(_resume)]
Number = Annotated[int, Field(ge=1, lt=2**31)]  # of a version of a label


class Carried(BaseModel):
    """Base of what requests carry: unknown keys are refused, and JSON values are of the type that is asked for."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True, validate_default=True
    )
    NAMES_ALLOWED: ClassVar[bool] = False  # whether other keys are names of models or the like

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, sent: Any) -> Any:
        if isinstance(sent, Mapping):
            known = list(cls.model_fields)
            unknown = [key for key in sent if key not in known and not cls._is_name(key, sent[key])]
            if unknown:
                raise not_held(_unknown(unknown, known))
        return sent

    @classmethod
    def _is_name(cls, key: Any, value: Any) -> bool:
        is_name = isinstance(key, str) and _NAME.fullmatch(key) and key not in FORBIDDEN
        return bool(cls.NAMES_ALLOWED and is_name and isinstance(value, Mapping))

    def sent(self) -> dict[str, Any]:
        """What was given, without defaults."""
        return self.model_dump(exclude_unset=True)


class CarriedText(Carried):
    """Base of queries and forms, where every value comes as text."""

    model_config = ConfigDict(strict=False)


_Model = TypeVar("_Model", bound=BaseModel)


def checked(model: type[_Model], sent: Any, what: str = "params") -> _Model:
    """What was sent, as its model.

    Args:
        model: what may be sent.
        sent: a mapping of what came.
        what: see `explain`.

    Raises:
        BadInputError: it is not what the model says, in words for people.
    """
    try:
        return model.model_validate(sent)
    except ValidationError as error:
        raise BadInputError(explain(error, what)) from None


def explain(error: ValidationError, what: str) -> str:
    """One sentence for whoever sent it: where, what, what is expected.

    Args:
        error: of a model here.
        what: how the whole is called: "address", "query", "form" or "body", of which only parts have names, or a name
            such as "params", which then stands before the names of its parts.

    Returns:
        At most three errors, joined. Values are cut, and neither secrets nor free text are shown.
    """
    errors = error.errors(include_url=False)
    told = [_told(one, what) for one in errors[:_MOST_TOLD]]
    more = [f"and {len(errors) - _MOST_TOLD} more"] if len(errors) > _MOST_TOLD else []
    return "; ".join([*told, *more])


def _told(error: ErrorDetails, what: str) -> str:
    kind, told = error["type"], error.get("ctx", {})
    parts = [str(part)[:_LONGEST_SHOWN] for part in error["loc"]]
    place = ".".join(parts if what in _WHOLES else [what, *parts]) or f"the {what}"
    if kind == "unknown_key":
        return f"{place} must not hold {told['told']}"
    if kind in {"missing", "extra_forbidden"}:
        return f"{place} is missing" if kind == "missing" else f"{place} is not allowed"
    if kind == "json_invalid":
        return f"{place} is not valid JSON: {told['error']}"
    if kind in {"model_type", "dict_type"}:
        return f"{place} must be a JSON object, not {type(error['input']).__name__}"
    if kind == "value_error":
        nested = len(parts) > 1 or (parts and what not in _WHOLES)
        return f"{place}: {told['error']}" if nested else str(told["error"])
    expected = _EXPECTED[kind](told) if kind in _EXPECTED else error["msg"]
    shown = "" if _NEVER_SHOWN & {*parts, what} else f" = {_short(error['input'])}"
    return f"{place}{shown} can't be used; expected {expected}"


def _unknown(unknown: Iterable[Any], known: list[str]) -> str:
    """Which keys are not known, and what may have been meant or has to be done instead."""
    keys = [str(key) for key in unknown]
    shown = ", ".join(shown_key(key) for key in keys[:_MOST_TOLD])
    if len(keys) > _MOST_TOLD:
        shown += f" and {len(keys) - _MOST_TOLD} more"
    remedy = next((FORBIDDEN[key] for key in keys if key in FORBIDDEN), None)
    if remedy is None:
        similar = get_close_matches(keys[0], known, _MOST_TOLD)
        remedy = f"did you mean {' or '.join(similar)}?" if similar else None
    if remedy is None:
        remedy = f"it may hold {', '.join(known)}" if known else "nothing is expected there"
    return f"{shown}; {remedy}"


def shown_key(key: str) -> str:
    """A key as an error shows it."""
    return key if key.isidentifier() and len(key) <= _LONGEST_SHOWN else _short(key)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _counted(bound: str, count: int, one: str, several: str) -> str:
    return f"{bound} {count} {one if count == 1 else several}"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # numbers of thousands of digits, which Python refuses to write out
        text = "a number too long to be shown"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
