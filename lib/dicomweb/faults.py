"""What goes wrong between us and a PACS, as errors that a person can act on.

Messages hold the PACS's host, never a login, and of an answer's body only Orthanc's own word for the kind of error,
since a body may name patients.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from python_multipart.exceptions import MultipartParseError
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)

from lib.dicomweb.settings import CERTIFICATES, PASSWORD, TOKEN, USER, PacsSettings
from lib.errors import LiverLoopError, NotFoundError, UnavailableError

_LONGEST_REASON = 80  # characters


class InterruptedAnswerError(Exception):
    """An answer ended before its end."""


class NoDicomwebError(Exception):
    """An answer is not what DICOMweb says it must be; `str(error)` tells in a word or two what it is."""


@contextmanager
def explained(settings: PacsSettings, name: str, missing: str) -> Iterator[None]:
    """Turn whatever a request raises into an error of ours.

    Args:
        settings: of the PACS.
        name: how messages call the PACS, such as `pacs.example:8042`.
        missing: what isn't there if the PACS says 404, such as `no series 1.2.3`.

    Raises:
        NotFoundError: the PACS has no such thing.
        UnavailableError: it can't be reached, is too slow, refuses us, fails, or answers what is no DICOMweb.
    """
    try:
        yield
    except LiverLoopError:
        raise
    except requests.HTTPError as error:
        raise _by_status(error.response, settings, name, missing) from error
    except requests.exceptions.SSLError as error:
        msg = (
            f"the certificate of the PACS at {name} can't be verified; set {CERTIFICATES} to a file with the "
            "certificate of the authority that made it"
        )
        raise UnavailableError(msg) from error
    except NoDicomwebError as error:
        raise _garbage(name, str(error)) from error
    except requests.exceptions.JSONDecodeError as error:
        raise _garbage(name, "no JSON") from error
    except InterruptedAnswerError as error:
        msg = f"the PACS at {name} broke off its answer several times; ask again later, and look into its log"
        raise UnavailableError(msg) from error
    except requests.exceptions.ProxyError as error:
        msg = f"the proxy before the PACS at {name} can't be reached; correct HTTPS_PROXY, or name the PACS in NO_PROXY"
        raise UnavailableError(msg) from error
    except requests.RequestException as error:
        msg = (
            f"the PACS at {name} {_reason(error, settings)}; see that it runs and that its address is right, try again"
        )
        raise UnavailableError(msg) from error
    except MultipartParseError as error:
        raise _garbage(name, "damaged multipart") from error


def _garbage(name: str, what: str) -> UnavailableError:
    msg = (
        f"the PACS at {name} gives an answer that is no DICOMweb ({what}); give the root of its DICOMweb service, "
        "often .../dicom-web, and let no login page stand before it"
    )
    return UnavailableError(msg)


def refusal(settings: PacsSettings, name: str, status: int) -> str:
    """What to say where a PACS does not let us in (HTTP 401 or 403)."""
    if settings.token:
        remedy = f"it does not accept the token in {TOKEN}; renew it"
    elif settings.user:
        remedy = f"it does not accept the login in {USER} and {PASSWORD}; correct them, or the user's rights there"
    else:
        remedy = f"it wants a login; set {USER} and {PASSWORD}, or {TOKEN}"
    return f"the PACS at {name} refuses us (HTTP {status}): {remedy}"


def _by_status(response: requests.Response, settings: PacsSettings, name: str, missing: str) -> LiverLoopError:
    status = response.status_code
    if status in {401, 403}:
        return UnavailableError(refusal(settings, name, status))
    if status == 404:
        return NotFoundError(f"the PACS at {name} has {missing} (HTTP 404)")
    remedy = "try again, and look into its log if it stays so"
    if status < 500 and status != 429:  # so answers what lies above its service
        remedy = "see that the address is the root of its DICOMweb service, often .../dicom-web, and look into its log"
    return UnavailableError(f"the PACS at {name} fails (HTTP {status}: {_said(response)}); {remedy}")


def _said(response: requests.Response) -> str:
    """The PACS's reason, in its own few words."""
    words = response.reason or "no reason given"
    try:
        answer = response.json()
        # Orthanc's name of the kind of error; its `Details`, and other PACS' texts, may tell more than is ours to tell.
        words = answer["OrthancError"] if isinstance(answer, dict) else words
    except (ValueError, KeyError, requests.RequestException):
        pass
    return " ".join(str(words).split())[:_LONGEST_REASON]


def _reason(error: requests.RequestException, settings: PacsSettings) -> str:
    cause = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    if isinstance(cause, ReadTimeoutError) or isinstance(error, requests.ReadTimeout):
        return f"does not answer within {settings.read_timeout_s:g} s"
    if isinstance(cause, NameResolutionError):
        return "can't be reached (no such host)"
    if isinstance(cause, NewConnectionError):  # before its base, a time-out
        system = cause.__cause__
        why = system.strerror if isinstance(system, OSError) else None
        return f"can't be reached ({(why or 'no connection').lower()})"
    if isinstance(cause, ConnectTimeoutError):
        return f"can't be reached within {settings.connect_timeout_s:g} s"
    return "can't be reached or broke off the connection"
