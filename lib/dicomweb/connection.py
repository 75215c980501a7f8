"""HTTP to a PACS: login, certificates, time-outs and retries for every request, whoever sends it."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.util import Retry

from lib.dicomweb.settings import PacsSettings
from lib.errors import UnavailableError

_BUSY = (429, 502, 503, 504)  # statuses that may be gone in a moment
_LONGEST_PAUSE_S = 20


def open_session(settings: PacsSettings) -> requests.Session:
    """A session that speaks to this PACS only as `settings` say. Not to be shared by threads."""
    session = requests.Session()
    # Always something, as requests would otherwise take a login from ~/.netrc.
    session.auth = _login(settings)
    session.headers["Accept"] = "application/dicom+json"
    adapter = _Adapter(settings)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def retry_policy(settings: PacsSettings) -> Retry:
    """When to ask again: what failed before it was sent always, what failed later only if it changes nothing."""
    return Retry(
        total=settings.retries,
        read=min(1, settings.retries),  # such as a connection that the PACS closed; or a whole time-out spent waiting
        other=0,  # such as a wrong certificate
        redirect=0,
        status_forcelist=_BUSY,
        allowed_methods={"GET"},
        backoff_factor=settings.backoff_s,
        backoff_jitter=settings.backoff_s,
        backoff_max=_LONGEST_PAUSE_S,
        retry_after_max=_LONGEST_PAUSE_S,
        raise_on_status=False,
    )


class _Adapter(HTTPAdapter):
    def __init__(self, settings: PacsSettings) -> None:
        super().__init__(max_retries=retry_policy(settings))
        self._name = urlsplit(settings.url).netloc
        self._timeout = (settings.connect_timeout_s, settings.read_timeout_s)
        self._verify = True if settings.certificates is None else str(settings.certificates)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        request.headers.pop("Host", None)  # dicomweb-client sets it without the port
        # Ours, not those of the session: requests lets REQUESTS_CA_BUNDLE win over a session's certificates.
        response = super().send(request, stream, self._timeout, self._verify, cert, proxies)
        if response.is_redirect:
            target = urlsplit(response.headers["Location"])
            response.close()
            where = f"{target.scheme}://{target.hostname}{target.path}" if target.hostname else target.path
            msg = (
                f"the PACS at {self._name} sends us on to {where}; give the address behind it, "
                "and let no login page stand before it"
            )
            raise UnavailableError(msg)
        return response


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Nobody(AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _login(settings: PacsSettings) -> AuthBase:
    if settings.token:
        return _Bearer(settings.token)
    if settings.user:
        return HTTPBasicAuth(settings.user.encode(), settings.password.encode())  # UTF-8, where requests takes Latin-1
    return _Nobody()
