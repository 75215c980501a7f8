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
from lib.web.log_lines import origin_of
from lib.web.request_ids import NONE, new_request_id, request_id
from lib.web.traffic import named

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


def headers_of(error: Exception) -> dict[str, str]:
    """What an error's answer says besides its reason."""
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(error.retry_after_s)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, LoginError) else {}


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
    """Make the server answer our errors with `{"detail": reason}` instead of a bare 500.

    The log gets the words of what is wrong with the server. Those of what is wrong with a request quote the request,
    which may name a patient: of it the log has kind and place, and the client the words.
    """

    async def answer(request: Request, error: Exception) -> JSONResponse:
        status = status_of(error)
        reason = reason_of(error)
        if status < 500:
            logger.warning("%s refused: %s", _route(request), origin_of(error))
        elif isinstance(error, ServerException):  # MONAI Label's words quote requests too
            logger.error("%s failed: %s", _route(request), origin_of(error))
        else:
            logger.error("%s %s", _route(request), reason)
        return JSONResponse({"detail": reason}, status_code=status, headers=headers_of(error))

    async def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": reason_of_unfit(error.errors())}, status_code=422)

    async def apologize(request: Request, error: Exception) -> JSONResponse:
        if request_id.get() == NONE:  # nothing before us has given one
            request_id.set(new_request_id(None))
        logger.error("%s failed", _route(request), exc_info=error)
        error.is_in_log = True  # type: ignore[attr-defined]  # it is raised again, for uvicorn to log it
        return JSONResponse({"detail": f"internal error; request ID {request_id.get()}"}, status_code=500)

    app.add_exception_handler(LiverLoopError, answer)
    app.add_exception_handler(RequestValidationError, explain)  # type: ignore[arg-type]
    app.add_exception_handler(ServerException, answer)
    app.add_exception_handler(RequestException, answer)
    app.add_exception_handler(Exception, apologize)
    # The handlers are read when the stack is built, which has happened by the time the app class is loaded.
    app.middleware_stack = None


def _told(error: Mapping[str, Any]) -> str:
    where, *names = error["loc"]
    if error["type"] == "json_invalid":
        return f"{where}: not valid JSON"
    name = ".".join(str(one) for one in names)[:80]
    return f"{where}: {name!r}: {error['msg']}" if name else f"{where}: {error['msg']}"


def _route(request: Request) -> str:
    return " ".join(named(request.scope))
