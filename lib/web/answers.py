"""What a client gets when something is wrong: the reason, with a status that says whose fault it is."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelError
from monailabel.interfaces.exception import MONAILabelException as ServerException
from requests import RequestException

from lib.errors import (
    BadInputError,
    BusyError,
    ForbiddenError,
    GoneError,
    LiverLoopError,
    LoginError,
    ModelError,
    NotFoundError,
    OverloadedError,
    SettingsError,
    StorageError,
    TooManyLoginsError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

_MOST_SHOWN = 5  # of the values of a request that don't fit
_STATUS: tuple[tuple[type[LiverLoopError], int], ...] = (
    (SettingsError, 500),  # a bad input of whoever runs the server, not of its caller
    (NotFoundError, 404),
    (BadInputError, 400),
    (BusyError, 409),
    (LoginError, 401),
    (ForbiddenError, 403),
    (TooManyLoginsError, 429),
    (OverloadedError, 503),
    (GoneError, 499),  # as nginx logs it; nobody gets this answer
    (UnavailableError, 503),
    (StorageError, 507),
    (ModelError, 503),
)


def status_of(error: Exception) -> int:
    """HTTP status for an error of ours or of MONAI Label."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    if isinstance(error, ImageNotFoundException | LabelNotFoundException):
        return 404
    if isinstance(error, ServerException) and error.error is MONAILabelError.INVALID_INPUT:
        return 400
    if isinstance(error, RequestException):
        return 502
    return 500


def reason_of(error: Exception) -> str:
    """What to tell the client; of a failed request to the PACS only its status, since the address may hold a secret."""
    if isinstance(error, RequestException):
        answer = "no answer" if error.response is None else f"{error.response.status_code} {error.response.reason}"
        return f"the PACS could not deliver the images ({answer}); ask its administrator, or try again"
    return str(getattr(error, "msg", None) or error)


def reason_of_unfit(errors: Sequence[Mapping[str, Any]]) -> str:
    """What to tell the client of a request that does not fit an endpoint, as one line; clients show it as it is.

    The values themselves are not repeated: one may be a password.

    Args:
        errors: as pydantic lists them.

    Example:
        >>> reason_of_unfit([{"loc": ("query", "limit"), "msg": "Should be above 0", "type": "greater_than"}])
        "query: 'limit': Should be above 0"
    """
    told = [_told(error) for error in errors[:_MOST_SHOWN]]
    more = len(errors) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def install_answers(app: FastAPI) -> None:
    """Make the server answer every error with `{"detail": reason}`, ours instead of with a bare 500."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        status = status_of(error)
        reason = reason_of(error)
        logger.log(logging.ERROR if status >= 500 else logging.WARNING, "%s %s", request.url.path, reason)
        headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, OverloadedError) else None
        return JSONResponse({"detail": reason}, status_code=status, headers=headers)

    async def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": reason_of_unfit(error.errors())}, status_code=422)

    app.add_exception_handler(LiverLoopError, answer)
    app.add_exception_handler(RequestValidationError, explain)  # type: ignore[arg-type]
    app.add_exception_handler(ServerException, answer)
    app.add_exception_handler(RequestException, answer)
    # The handlers are read when the stack is built, which has happened by the time the app class is loaded.
    app.middleware_stack = None


def _told(error: Mapping[str, Any]) -> str:
    where, *names = error["loc"]
    if error["type"] == "json_invalid":
        return f"{where}: not valid JSON"
    name = ".".join(str(one) for one in names)[:80]
    return f"{where}: {name!r}: {error['msg']}" if name else f"{where}: {error['msg']}"
