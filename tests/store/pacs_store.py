"""Stores over a PACS for tests, and a PACS of any number of series that knows only how to list them."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lib.dicomweb.client import Pacs
from lib.settings import Settings
from lib.store.opening import _make
from lib.store.store import Store
from tests.dicomweb.bad_pacs import BadPacs, listed, says

OF_SERIES = re.compile(r"/studies/([0-9.]+)/series/([0-9.]+)/instances")


@contextmanager
def pacs_store(folder: Path, pacs: Pacs, in_use_s: float | None = None, **settings: Any):
    """A store whose images come from `pacs`, in a working folder that is made if it is missing."""
    chosen = Settings.model_validate({"pacs": settings})
    _make(folder, pacs.settings.url)
    store = Store(folder, chosen, pacs=pacs)
    if in_use_s is not None:
        store.images._cache._in_use_s = in_use_s
    try:
        yield store
    finally:
        store.close()


class BigPacs(BadPacs):
    """Lists CT series by QIDO-RS in pages, as told by `series`: study UID by series UID; counts what it was asked.

    Args:
        count: how many there are at first.
    """

    def __init__(self, count: int = 0) -> None:
        self.series = {f"1.2.{number}.1": f"1.2.{number}" for number in range(1, count + 1)}
        self.instances: dict[str, int] = {}
        self.asked: list[str] = []
        self.listing = threading.Event()
        self.may_list = threading.Event()
        self.may_list.set()
        super().__init__(self._answer)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        path = url.path.removeprefix("/dicom-web")
        found = OF_SERIES.fullmatch(path)
        if found:
            self.asked.append("instances")
            says([] if "offset" in query and query["offset"] != "0" else self._instances(found[2]))(request)
            return
        if not path.endswith("/series"):
            self.asked.append("fetch")
            says("", 500)(request)
            return
        study = path.removeprefix("/studies/").removesuffix("/series") if path.startswith("/studies/") else None
        if query.get("SeriesInstanceUID"):
            self.asked.append("series")
            uid = query["SeriesInstanceUID"]
            there = uid in self.series and study in (None, self.series[uid])
            says([self._item(uid)] if there else [])(request)
            return
        self.asked.append("recent" if "StudyDate" in query else "page")
        self.listing.set()
        self.may_list.wait(30)
        first, length = int(query.get("offset", 0)), int(query["limit"])
        every = iter(self.series) if query.get("Modality") == "CT" and "StudyDate" not in query else iter(())
        says([self._item(uid) for uid in islice(every, first, first + length)])(request)

    def _item(self, uid: str) -> dict[str, Any]:
        return {
            "0020000E": {"vr": "UI", "Value": [uid]},
            "0020000D": {"vr": "UI", "Value": [self.series[uid]]},
            "00080060": {"vr": "CS", "Value": ["CT"]},
            "00080020": {"vr": "DA", "Value": ["20240501"]},
            "00100020": {"vr": "LO", "Value": [f"patient {uid}"]},
            "00201209": {"vr": "IS", "Value": [self.instances.get(uid, 3)]},
        }

    def _instances(self, uid: str) -> list[dict[str, Any]]:
        if uid not in self.series:
            return []
        return listed("SOPInstanceUID", *(f"{uid}.{n}" for n in range(self.instances.get(uid, 3))))
