"""What can go wrong, as exceptions whose message a person can act on.

Every message names the thing (file, image, key), the value found and the remedy. The classes say whose fault it
is and nothing of HTTP; `lib.web` gives each its status code and the scripts print the message as one line.
"""

import traceback
from pathlib import Path


class LiverLoopError(Exception):
    """Base of all errors that LiverLoop raises on purpose; `str(error)` is one sentence for the user."""


class BadInputError(LiverLoopError, ValueError):
    """The caller's file, parameter or request can't be used as it is."""


class NotFoundError(LiverLoopError, LookupError):
    """The caller named an image, label, model, strategy or session that does not exist."""


class SettingsError(BadInputError):
    """`app.yaml` or a `--conf` override holds an unknown key or a wrong value."""


class ModelError(LiverLoopError, RuntimeError):
    """Weights are missing, damaged or do not fit the network."""


class StorageError(LiverLoopError, OSError):
    """The disk is full, read-only or otherwise refused a write."""


class UnavailableError(StorageError):
    """The folder is read-only, or the ledger can't be reached; the same request may succeed later."""


class BusyError(LiverLoopError):
    """What was asked for is in use by others now; asking again later will do."""


class OverloadedError(LiverLoopError):
    """More ask at once than the server lets wait.

    Args:
        message: for the user.
        retry_after_s: seconds after which asking again is worth it.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LoginError(LiverLoopError):
    """Who asks is not known: no login, or a name, password or token that is wrong or no longer valid."""


class ForbiddenError(LiverLoopError):
    """Who asks is known and may not do this."""


class TooManyLoginsError(OverloadedError):
    """Too many logins failed, or are tried at once; until the pause is over no password is looked at."""


class GoneError(LiverLoopError):
    """Whoever asked has gone before the answer was begun."""


def frames_of(error: BaseException) -> str:
    """Kind and place of an error that nobody foresaw, for a log: its own words may quote what a patient's file holds.

    Example:
        >>> try:
        ...     int("Doe^Jane")
        ... except ValueError as error:
        ...     frames_of(error).split(" (")[0]
        'ValueError'
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = (f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} ({' > '.join(places)})"
