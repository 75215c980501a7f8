"""What a DICOMweb PACS can be asked for: `Pacs`."""

import logging
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from urllib3.exceptions import MaxRetryError, ProtocolError

from lib.dicomweb.answers import SERIES_FIELDS, Series, check_uids, dataset_of, is_uid, series_of, uid_of, value_of
from lib.dicomweb.connection import open_session, retry_policy
from lib.dicomweb.deflated import check_inflatable
from lib.dicomweb.faults import InterruptedAnswerError, NoDicomwebError, explained
from lib.dicomweb.multipart import save_parts
from lib.dicomweb.settings import PacsSettings
from lib.dicomweb.storing import answer_of, as_file, check_answer
from lib.errors import NotFoundError, UnavailableError

logger = logging.getLogger(__name__)

# dicomweb-client's helper, which logs a stack trace for each error that is ours to put in words.
logging.getLogger("retrying").setLevel(logging.CRITICAL)
# Tells of each request.
logging.getLogger("dicomweb_client").setLevel(logging.WARNING)

# As stored, compressed too; otherwise the PACS would have to unpack each slice.
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_NO_SERVICE = "no DICOMweb service at this address; give the root of its DICOMweb service, often .../dicom-web"


class Pacs:
    """A PACS; may be used by several threads at once.

    Every method raises `BadInputError` for a UID that is none, `NotFoundError` for what the PACS does not have, and
    `UnavailableError` where it can't be reached, is too slow, refuses the login, fails, or gives an answer that is no
    DICOMweb. Reading is tried again before that, with growing pauses.

    Args:
        settings: where it is.
    """

    def __init__(self, settings: PacsSettings) -> None:
        self.settings = settings
        self.name = urlsplit(settings.url).netloc
        self._threads = threading.local()

    def check(self) -> None:
        """Ask for one series, to see whether there is a PACS that lets us in."""
        with self._explained(_NO_SERVICE):
            for item in _listed(self._client.search_for_series(limit=1, fields=list(SERIES_FIELDS))):
                series_of(item)

    def find_series(
        self,
        modality: str = "CT",
        *,
        study_uid: str | None = None,
        first_date: date | None = None,
        last_date: date | None = None,
    ) -> Iterator[Series]:
        """List series page by page; a page is asked for when the one before has been used up.

        While series come and go, one may be listed twice or not at all; the next listing is right about it.

        Args:
            modality: such as `CT` or `SEG`.
            study_uid: of the only study to look into; None for all.
            first_date: of the studies, inclusive; None for no limit.
            last_date: likewise.
        """
        filters: dict[str, Any] = {"Modality": modality}
        if first_date or last_date:
            filters["StudyDate"] = "-".join(f"{day:%Y%m%d}" if day else "" for day in (first_date, last_date))
        if study_uid is not None:
            check_uids(study_uid)

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_series(
                study_uid,
                fields=list(SERIES_FIELDS),
                search_filters=filters,
                limit=self.settings.page_size,
                offset=offset,
            )

        for item in self._pages(page, "SeriesInstanceUID", _NO_SERVICE):
            with self._explained(_NO_SERVICE):
                found = series_of(item)
            if found is None:
                logger.warning("the PACS at %s lists a series whose UID is none; it is left out", self.name)
            elif found.modality in ("", modality):  # a PACS may ignore a filter
                yield found

    def series(self, study_uid: str, series_uid: str) -> Series | None:
        """One series as the PACS lists it now; None if it is not there."""
        check_uids(study_uid, series_uid)
        with self._explained(f"no study {study_uid}"):
            try:
                items = self._client.search_for_series(
                    study_uid, fields=list(SERIES_FIELDS), search_filters={"SeriesInstanceUID": series_uid}
                )
            except requests.HTTPError as error:
                if error.response.status_code != 404:  # so do some PACS answer for a study without series
                    raise
                return None
            found = [series_of(item) for item in _listed(items)]
        return next((one for one in found if one is not None and one.series_uid == series_uid), None)

    def find(self, series_uid: str) -> Series | None:
        """A series of any study as the PACS lists it now; None if it is not there."""
        check_uids(series_uid)
        with self._explained(_NO_SERVICE):
            items = self._client.search_for_series(
                fields=list(SERIES_FIELDS), search_filters={"SeriesInstanceUID": series_uid}, limit=10
            )
            found = [series_of(item) for item in _listed(items)]
        return next((one for one in found if one is not None and one.series_uid == series_uid), None)

    def instances(self, study_uid: str, series_uid: str) -> list[str]:
        """The SOP Instance UIDs of a series, sorted.

        Raises:
            NotFoundError: there is no such series.
        """
        check_uids(study_uid, series_uid)
        missing = f"no series {series_uid} in study {study_uid}; it may have been deleted"

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_instances(
                study_uid, series_uid, fields=["SOPInstanceUID"], limit=self.settings.page_size, offset=offset
            )

        uids = set()
        for item in self._pages(page, "SOPInstanceUID", missing):
            with self._explained(missing):
                uid = uid_of(item, "SOPInstanceUID")
            if uid is None:
                msg = f"series {series_uid} holds an instance whose UID is none; send the series to the PACS again"
                raise UnavailableError(msg)
            uids.add(uid)
        if not uids:
            raise NotFoundError(f"the PACS at {self.name} has {missing}")
        return sorted(uids)

    def has_instance(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Whether an object is in the PACS."""
        check_uids(study_uid, series_uid, sop_uid)
        with self._explained(f"no series {series_uid}"):
            try:
                items = self._client.search_for_instances(
                    study_uid, series_uid, fields=["SOPInstanceUID"], search_filters={"SOPInstanceUID": sop_uid}
                )
            except requests.HTTPError as error:
                if error.response.status_code != 404:
                    raise
                return False
            return any(uid_of(item, "SOPInstanceUID") == sop_uid for item in _listed(items))

    def metadata(self, study_uid: str, series_uid: str) -> list[Dataset]:
        """All attributes of a series' objects, one dataset each, but for pixels and those of the patient."""
        check_uids(study_uid, series_uid)
        with self._explained(f"no series {series_uid} in study {study_uid}; it may have been deleted"):
            items = _listed(self._client.retrieve_series_metadata(study_uid, series_uid))
            return [dataset_of(item) for item in items]

    def references(self, study_uid: str, series_uid: str) -> dict[str, frozenset[str]]:
        """Which series the objects of a series, such as SEGs, were made for.

        Returns:
            By SOP Instance UID, the Series Instance UIDs of its Referenced Series Sequence; none if it has no such.
        """
        return {
            str(dataset.SOPInstanceUID): frozenset(
                str(item.SeriesInstanceUID)
                for item in dataset.get("ReferencedSeriesSequence") or ()
                if is_uid(item.get("SeriesInstanceUID"))
            )
            for dataset in self.metadata(study_uid, series_uid)
            if is_uid(dataset.get("SOPInstanceUID"))
        }

    def fetch(self, study_uid: str, series_uid: str, folder: Path, expected: list[str] | None = None) -> None:
        """Fetch a series whole, one `SOP_INSTANCE_UID.dcm` for each object, as stored in the PACS.

        Args:
            study_uid: its study.
            series_uid: the series.
            folder: an existing, empty folder; after an error it is empty again.
            expected: SOP Instance UIDs that must come, as from `instances`; None to ask for them.

        Raises:
            UnavailableError: also if only a part of the series came.
            OSError: the folder can't be written, such as on a full disk.
        """
        expected = self.instances(study_uid, series_uid) if expected is None else expected
        try:
            with self._explained(f"no series {series_uid} in study {study_uid}; it may have been deleted"):
                self._fetch_patiently(study_uid, series_uid, folder)
            received = {path.stem for path in folder.iterdir()}
            if lacking := len(set(expected) - received):
                msg = (
                    f"the PACS at {self.name} gave {len(expected) - lacking} of the {len(expected)} instances of "
                    f"series {series_uid}; ask again in a minute, and look into its log if it stays so"
                )
                raise UnavailableError(msg)
        except BaseException:
            _empty(folder)
            raise

    def store(self, dataset: Dataset) -> None:
        """Store an object; doing it twice does no harm.

        Sent again only where the connection failed and the object is not in the PACS.

        Args:
            dataset: with its file meta information.

        Raises:
            BadInputError: the dataset is no whole DICOM object, or the PACS does not take it; the message tells why.
        """
        dataset = as_file(dataset)
        uids = (str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID))
        with self._explained("no place to store at; give the root of its DICOMweb service, often .../dicom-web"):
            answer = self._send(dataset, uids)
        if answer is not None and not check_answer(answer, uids[2], self.name) and not self.has_instance(*uids):
            msg = (
                f"the PACS at {self.name} says nothing against object {uids[2]} but does not have it; look into its log"
            )
            raise UnavailableError(msg)

    def _send(self, dataset: Dataset, uids: tuple[str, str, str]) -> Dataset | None:
        """The PACS's answer; None if it never came but the object is there."""
        retries = retry_policy(self.settings)
        while True:
            try:
                return self._client.store_instances([dataset])
            except requests.HTTPError as error:
                answer = answer_of(error.response)
                if answer is None:
                    raise
                return answer
            except (requests.ConnectionError, requests.Timeout) as error:
                if error.args and isinstance(error.args[0], MaxRetryError):  # never sent
                    raise
                if self.has_instance(*uids):
                    return None
                try:
                    retries = retries.increment("GET", error=ProtocolError())
                except (MaxRetryError, ProtocolError):
                    raise error from None
                retries.sleep()
            except (KeyError, ValueError, TypeError, AttributeError, SyntaxError):  # no answer that can be read
                return Dataset()

    def _fetch_patiently(self, study_uid: str, series_uid: str, folder: Path) -> None:
        retries = retry_policy(self.settings).new(read=self.settings.retries)
        while True:
            try:
                self._fetch_once(study_uid, series_uid, folder)
                return
            except InterruptedAnswerError as error:
                _empty(folder)
                try:
                    retries = retries.increment("GET", error=ProtocolError())
                except (MaxRetryError, ProtocolError):
                    raise error from None
                retries.sleep()

    def _fetch_once(self, study_uid: str, series_uid: str, folder: Path) -> None:
        url = f"{self.settings.url}/studies/{study_uid}/series/{series_uid}"
        with self._session.get(url, headers={"Accept": _AS_STORED}, stream=True) as response:
            response.raise_for_status()
            for part in save_parts(response, folder):
                part.replace(folder / f"{_sop_uid(part, series_uid)}.dcm")

    def _pages(self, ask: Callable[[int], list[dict[str, Any]]], key: str, missing: str) -> Iterator[dict[str, Any]]:
        """The items of all pages; a PACS may give fewer at once than it was asked for, so that only none is the end."""
        offset, before = 0, None
        while True:
            with self._explained(missing):
                items = _listed(ask(offset))
                keys = [value_of(item, key) for item in items]
            if keys and keys == before:
                if len(items) != self.settings.page_size:  # it knows no pages and has told all
                    return
                msg = f"the PACS at {self.name} gives its first {len(items)} results for ever; it ignores QIDO's offset"
                raise UnavailableError(msg)
            if not items:
                return
            yield from items
            offset, before = offset + len(items), keys

    @contextmanager
    def _explained(self, missing: str) -> Iterator[None]:
        with explained(self.settings, self.name, missing):
            yield

    @property
    def _session(self) -> requests.Session:
        return self._own()[0]

    @property
    def _client(self) -> DICOMwebClient:
        return self._own()[1]

    def _own(self) -> tuple[requests.Session, DICOMwebClient]:
        """For each thread its own, and none from before a fork, as connections can't be shared."""
        process, *own = getattr(self._threads, "own", (None,))
        if process != os.getpid():
            session = open_session(self.settings)
            # Objects are sent in one piece: chunks without a length are more than some PACS and proxies take.
            client = DICOMwebClient(self.settings.url, session, chunk_size=sys.maxsize, permissive_uid=True)
            client.set_http_retry_params(retry=False)  # the session does that, for lost connections too
            own = [session, client]
            self._threads.own = (os.getpid(), *own)
        return own[0], own[1]


def _listed(items: Any) -> list[dict[str, Any]]:
    if not isinstance(items, list):
        msg = "JSON that is no list"
        raise NoDicomwebError(msg)
    return items


def _sop_uid(path: Path, series_uid: str) -> str:
    """Which object of a series a file holds.

    Raises:
        NoDicomwebError: it holds none.
    """
    try:
        check_inflatable(path)
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "SeriesInstanceUID"])
        sop_uid, found = header.get("SOPInstanceUID"), header.get("SeriesInstanceUID")
    except (InvalidDicomError, EOFError, ValueError, KeyError, NotImplementedError, struct.error) as error:
        msg = "a part that is no DICOM file"
        raise NoDicomwebError(msg) from error
    if not is_uid(sop_uid) or found != series_uid:
        msg = "a part that is not of the series"
        raise NoDicomwebError(msg)
    return str(sop_uid)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
