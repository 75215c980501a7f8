"""A viewer's requests, sent on to a PACS with our login, and the answers as they come.

Only DICOMweb gets through (PS3.18): queries, retrievals and storing below `/studies`, `/series` and `/instances`.
"""

import base64
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from lib.dicomweb.faults import refusal
from lib.dicomweb.settings import CERTIFICATES, PacsSettings
from lib.errors import BadInputError, UnavailableError

# It logs each address, and a query may hold a patient's name.
logging.getLogger("httpx").setLevel(logging.WARNING)
logging.getLogger("httpcore").setLevel(logging.WARNING)

_MOST_CONNECTIONS = 32
_LONGEST_REQUEST = 8192  # characters of path or query
# No encoded character but a comma: what isn't needed for UIDs and frame lists could lead out of the DICOMweb root.
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~,-]*")
# Not "servers", by which Orthanc asks other servers, and whatever else a PACS keeps beside its DICOMweb resources.
_RESOURCES = {"studies", "series", "instances", "bulkdata"}
_STORE = re.compile(r"studies(/[0-9.]{1,64})?")
_QUERY = re.compile(r'[!"$-~]*')
_VALUE = re.compile(r"[\t -~]*")  # of a header
_JSON = ("application/dicom+json", "application/json")
_KEPT_UPWARDS = ("accept", "accept-charset", "range")
_KEPT_OF_CONTENT = ("content-type", "content-length")
_KEPT_DOWNWARDS = (
    "content-type", "content-encoding", "content-length", "content-range", "accept-ranges", "etag", "last-modified",
    "warning",
)  # fmt: skip

_OF_THE_BYTES = {"content-encoding", "content-length", "etag"}


class FailedForwardingError(UnavailableError):
    """A PACS did not answer as it should.

    Args:
        message: for the user.
        status: in HTTP: 502 for a wrong answer, 503 for none, 504 for one that takes too long; the PACS's own where it
            finds fault with the request.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class InterruptedForwardingError(Exception):
    """An answer ended before its end, when its beginning was on its way already."""


class Answer(NamedTuple):
    """What a PACS answers; `content` must be used up or closed."""

    status: int
    headers: dict[str, str]
    content: AsyncIterator[bytes]


def checked_path(path: str, method: str) -> str:
    """A path below the DICOMweb root as it may be sent on.

    Args:
        path: as it came, not decoded, without a slash at its start.
        method: GET or POST.

    Raises:
        BadInputError: it could lead anywhere else.
    """
    path = path.removesuffix("/").replace("%2C", ",").replace("%2c", ",")
    segments = path.split("/")
    fits = len(path) <= _LONGEST_REQUEST and all(_SEGMENT.fullmatch(one) for one in segments)
    if not fits or segments[0] not in _RESOURCES:
        msg = f"{path[:80]!r} is no DICOMweb resource; ask for something below studies, series or instances"
        raise BadInputError(msg)
    if method == "POST" and not _STORE.fullmatch(path):
        msg = f"nothing can be stored at {path[:80]!r}; send objects to studies or studies/STUDY_UID"
        raise BadInputError(msg)
    return path


class Forwarder:
    """Sends requests on to one PACS; belongs to one event loop.

    Args:
        settings: where the PACS is, and who we are there.
    """

    def __init__(self, settings: PacsSettings) -> None:
        self._settings = settings
        self._name = urlsplit(settings.url).netloc
        self._root = httpx.URL(settings.url)
        context = ssl.create_default_context(cafile=str(settings.certificates)) if settings.certificates else True
        self._client = httpx.AsyncClient(
            verify=context,
            follow_redirects=False,
            timeout=httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s),
            limits=httpx.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_CONNECTIONS),
        )

    async def get(self, path: str, query: str, headers: Mapping[str, str], own_root: str) -> Answer:
        """Query or retrieve.

        Args:
            path: below the DICOMweb root, not decoded.
            query: what follows the question mark, not decoded.
            headers: of the request, by names in small letters.
            own_root: our address in the place of the PACS's DICOMweb root, for the links in JSON answers.

        Raises:
            BadInputError: see `checked_path`; or a query that is none.
            FailedForwardingError: no good answer.
        """
        request = self._request("GET", path, query, headers)
        try:
            response = await self._sent(request)
        except FailedForwardingError as error:
            if not isinstance(error.__cause__, httpx.RemoteProtocolError | httpx.ReadError):
                raise
            response = await self._sent(request)  # on a new connection, as the PACS had closed the one we kept
        await self._check(response)
        kept = _kept(response.headers, _KEPT_DOWNWARDS)
        if response.headers.get("content-type", "").startswith(_JSON):
            # Else browsers would ask the PACS itself for bulk data, which they can't reach.
            chunks = _replaced(response.aiter_bytes(), f"{self._settings.url}/".encode(), f"{own_root}/".encode())
            kept = {name: value for name, value in kept.items() if name not in _OF_THE_BYTES}
        else:
            chunks = response.aiter_raw()
        return Answer(response.status_code, kept, self._relayed(response, chunks))

    async def store(
        self, path: str, headers: Mapping[str, str], content: AsyncIterator[bytes], own_root: str
    ) -> tuple[int, bytes]:
        """Store objects (STOW-RS).

        Args:
            path: `studies` or `studies/STUDY_UID`.
            headers: of the request, by names in small letters.
            content: multipart/related, as it comes.
            own_root: as for `get`.

        Returns:
            Status and DICOM JSON of the PACS's answer, also where it refused some objects.

        Raises:
            BadInputError: see `checked_path`; or the content is not multipart.
            FailedForwardingError: no good answer.
        """
        if not headers.get("content-type", "").startswith("multipart/related"):
            msg = f"DICOM is stored as multipart/related, not as {headers.get('content-type', 'nothing')[:80]!r}"
            raise BadInputError(msg)
        request = self._request("POST", path, "", {**headers, "accept": _JSON[0]}, content)
        response = await self._sent(request)
        if response.status_code != 409:  # some objects were refused: the answer tells which
            await self._check(response)
        try:
            body = await response.aread()
        except httpx.TransportError as error:
            raise self._failed(error) from error
        return response.status_code, body.replace(f"{self._settings.url}/".encode(), f"{own_root}/".encode())

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def _request(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        content: AsyncIterator[bytes] | None = None,
    ) -> httpx.Request:
        if len(query) > _LONGEST_REQUEST or not _QUERY.fullmatch(query):
            msg = "the query is too long or holds characters that must be encoded"
            raise BadInputError(msg)
        raw = f"{self._root.raw_path.decode('ascii').rstrip('/')}/{checked_path(path, method)}"
        url = self._root.copy_with(raw_path=f"{raw}?{query}".encode("ascii") if query else raw.encode("ascii"))
        encoding = "gzip" if "gzip" in headers.get("accept-encoding", "") else "identity"  # what we can undo for links
        names = _KEPT_UPWARDS if content is None else (*_KEPT_UPWARDS, *_KEPT_OF_CONTENT)
        kept = _kept(headers, names)
        for name, value in kept.items():
            if not _VALUE.fullmatch(value):
                msg = f"the header {name} holds characters that must be encoded"
                raise BadInputError(msg)
        sent = kept | {"accept-encoding": encoding} | self._login()
        return self._client.build_request(method, url, headers=sent, content=content)

    def _login(self) -> dict[str, str]:
        chosen = self._settings
        if chosen.token:
            return {"authorization": f"Bearer {chosen.token}"}
        if chosen.user:
            token = base64.b64encode(f"{chosen.user}:{chosen.password}".encode()).decode("ascii")
            return {"authorization": f"Basic {token}"}
        return {}

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise self._failed(error) from error

    async def _check(self, response: httpx.Response) -> None:
        """Refuse what is no answer to the request; the PACS's own words may tell too much or hold a login."""
        status = response.status_code
        if 200 <= status < 300:
            return
        await response.aclose()
        if status in {401, 403}:
            raise FailedForwardingError(refusal(self._settings, self._name, status), 502)
        if status < 400:
            msg = f"the PACS at {self._name} sends us on elsewhere (HTTP {status}); give the address behind it"
            raise FailedForwardingError(msg, 502)
        if status >= 500:
            msg = f"the PACS at {self._name} fails (HTTP {status}); try again, and look into its log if it stays so"
            raise FailedForwardingError(msg, 502)
        told = "does not have what was asked for" if status == 404 else "does not take the request"
        raise FailedForwardingError(f"the PACS at {self._name} {told} (HTTP {status})", status)

    def _failed(self, error: httpx.TransportError) -> FailedForwardingError:
        chosen, status = self._settings, 503
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
            what, status = f"does not answer within {chosen.read_timeout_s:g} s", 504
        elif isinstance(error, httpx.ConnectTimeout):
            what, status = f"can't be reached within {chosen.connect_timeout_s:g} s", 504
        elif isinstance(error, httpx.PoolTimeout):
            what = f"is asked for {_MOST_CONNECTIONS} things at once already"
        elif _is_certificate(error):
            what = f"has a certificate that can't be verified; set {CERTIFICATES} to a file with that of its authority"
            return FailedForwardingError(f"the PACS at {self._name} {what}", 502)
        elif isinstance(error, httpx.ConnectError):
            what = "can't be reached"
        else:
            what = "broke off the connection"
        return FailedForwardingError(f"the PACS at {self._name} {what}; see that it runs, and try again", status)

    async def _relayed(self, response: httpx.Response, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        except httpx.HTTPError as error:
            msg = f"the PACS at {self._name} broke off its answer"
            raise InterruptedForwardingError(msg) from error
        finally:
            await response.aclose()


def stored_segs(answer: bytes) -> dict[str, list[str]]:
    """SOP Instance UIDs of the SEGs that a PACS says it stored, by Study Instance UID; empty if it can't be read."""
    found: dict[str, list[str]] = {}
    try:
        for item in json.loads(answer)["00081199"]["Value"]:  # Referenced SOP Sequence
            kind = item["00081150"]["Value"][0]
            study = _STUDY.search(item["00081190"]["Value"][0])
            if kind in _SEG_CLASSES and study:
                found.setdefault(study[1], []).append(str(item["00081155"]["Value"][0]))
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    return found


_SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
_STUDY = re.compile(r"/studies/([0-9][0-9.]{0,63})(?:/|$)")


def _kept(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def _is_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


async def _replaced(chunks: AsyncIterator[bytes], old: bytes, new: bytes) -> AsyncIterator[bytes]:
    """A stream with one text in the place of another, also where it lies across two chunks."""
    rest = b""
    async for chunk in chunks:
        rest = (rest + chunk).replace(old, new)
        # Of what is held back only so much can be the beginning of `old`.
        held = next((size for size in range(min(len(old) - 1, len(rest)), 0, -1) if rest.endswith(old[:size])), 0)
        ready, rest = rest[: len(rest) - held], rest[len(rest) - held :]
        if ready:
            yield ready
    if rest:
        yield rest
