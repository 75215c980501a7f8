"""People of a soak with MONAI Label's own client: what all have in common, an administrator, a dashboard."""

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import numpy as np
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException, MONAILabelUtils

from lib.benchmarks.soak_cases import Cases
from lib.benchmarks.soak_journal import Journal
from lib.benchmarks.soak_timings import Asked, End, Timings
from lib.errors import LiverLoopError

_T = TypeVar("_T")
_STATUS = re.compile(r"Status: (\d{3}); Response: (.*)", re.DOTALL)
_LATER = re.compile(r"again in (\d+) s")
_LATER_STATUS = 503
# Others were faster: all images that are left are in their hands; a label was saved while it was being withdrawn.
_TOO_LATE = {("next sample", 409), ("next sample (review)", 409), ("withdraw label", 404)}


class StoppedError(Exception):
    """The soak is over."""


@dataclass
class Desk:
    """What all people share.

    Args:
        url: of the server.
        model: its name.
        cases: the images.
        folder: for what they download.
        pause_s: mean time that a person thinks.
        began: `time.monotonic()` at the start.
    """

    url: str
    model: str
    cases: Cases
    folder: Path
    pause_s: float
    began: float
    journal: Journal = field(default_factory=Journal)
    timings: Timings = field(default_factory=Timings)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while a label goes into or out of review
    in_review: set[str] = field(default_factory=set)
    labelled: set[str] = field(default_factory=set)
    versions: dict[str, float] = field(default_factory=dict)  # model versions by when they were first seen


class Person(threading.Thread):
    """Somebody with a client.

    Args:
        desk: what all share.
        name: who it is; also the name to log in with.
        password: asked for where the server wants a login.
        seed: of what happens by chance.
    """

    def __init__(self, desk: Desk, name: str, password: str, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.desk, self._password = desk, password
        self.chance = np.random.default_rng(seed)
        self.folder = desk.folder / name
        self.folder.mkdir(parents=True)
        self.headers: dict[str, str] = {}
        self.user = name  # to log in with
        self._token: dict[str, str] | None = None
        self._keeps_client = bool(seed % 2)
        self._kept = self.new_client()

    @property
    def client(self) -> MONAILabelClient:
        """A script keeps its client, 3D Slicer makes one for each request; half of the people are like either."""
        return self._kept if self._keeps_client else self.new_client()

    @property
    def logged_in(self) -> bool:
        """Whether the person had to log in, and could."""
        return self._token is not None

    def new_client(self) -> MONAILabelClient:
        """Another client of the same person."""
        client = MONAILabelClient(self.desk.url, tmpdir=str(self.folder), client_id=self.name)
        client.update_auth(self._token)
        return client

    def run(self) -> None:
        """Log in and work until the soak is over; what goes wrong is an error and no reason to stop."""
        try:
            self.log_in()
            while not self.desk.over.is_set():
                try:
                    self.work()
                except (LiverLoopError, OSError, KeyError, ValueError, TypeError) as error:
                    self.note("annotator's own", time.monotonic(), End.ERROR, repr(error))
                    self.desk.over.wait(1)
        except StoppedError:
            pass

    def log_in(self) -> None:
        """Log in if the server asks for it."""
        if not self.client.auth_enabled():
            return
        token = self.ask("login", lambda: self.client.auth_token(self.user, self._password))
        if token is None:
            return
        self._token = token
        self._kept.update_auth(token)
        self.headers = {"Authorization": f"{token['token_type']} {token['access_token']}"}

    def work(self) -> None:
        """What the person does again and again."""
        raise NotImplementedError

    def ask(self, kind: str, action: Callable[[], _T]) -> _T | None:
        """Do one request, again when the server asks to come back later.

        Returns:
            None for an error, which is noted.

        Raises:
            StoppedError: the soak is over.
        """
        while True:
            began = time.monotonic()
            try:
                result = action()
            except MONAILabelClientException as error:
                match = _STATUS.match(str(error.msg))
                status, told = (int(match[1]), match[2]) if match else (0, str(error.msg))
                later = _LATER.search(told) if status == _LATER_STATUS else None
                if later:
                    self.note(kind, began, End.LATER)
                    self.pause(float(later[1]))
                    continue
                late = (kind, status) in _TOO_LATE
                self.note(kind, began, End.LATE if late else End.ERROR, f"{status} {told[:300]}")
                return None
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.note(kind, began, End.ERROR, repr(error)[:300])
                return None
            self.note(kind, began, End.DONE)
            return result

    def http(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """A request that the client has no function for.

        Raises:
            MONAILabelClientException: the answer is not 200.
        """
        status, content, _, _ = MONAILabelUtils.http_method(
            method, self.desk.url, path, None if body is None else dict(body), headers=dict(self.headers)
        )
        if status != http.client.OK:
            raise MONAILabelClientException(1, f"Status: {status}; Response: {content.decode(errors='replace')}")
        return bytes(content)

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            StoppedError: the soak is over.
        """
        if self.desk.over.wait(seconds):
            raise StoppedError

    def think(self) -> None:
        """Wait for a time by chance."""
        self.pause(float(self.chance.exponential(self.desk.pause_s)))

    def happens(self, probability: float) -> bool:
        """Whether something with a probability happens now."""
        return bool(self.chance.random() < probability)

    def wrong(self, kind: str, told: str) -> None:
        """An answer came that is not right."""
        self.note(kind, time.monotonic(), End.ERROR, told)

    def note(self, kind: str, began: float, end: End, told: str = "") -> None:
        """Note a request that began at a `time.monotonic()` and is over."""
        now = time.monotonic()
        self.desk.timings.note(Asked(kind, began - self.desk.began, now - began, end), f"{self.name}: {told}")


class Curator(Person):
    """Takes labels back, so that there is always something to label, however long the soak.

    Args:
        desk: what all share.
        name: see `Person`.
        password: see there.
        seed: see there.
        open_images: so many at least are to be labelled.
    """

    def __init__(self, desk: Desk, name: str, password: str, seed: int, *, open_images: int) -> None:
        super().__init__(desk, name, password, seed)
        self._open = open_images

    def work(self) -> None:
        """See how many images are left, and take back what is missing."""
        self.pause(0.5)
        content = self.ask("ledger status", lambda: self.http("GET", "/ledger/status"))
        if content is None:
            return
        missing = self._open - int(json.loads(content)["images"]["open"])
        for image in map(str, self.chance.permutation(sorted(self.desk.labelled))[: max(0, missing)]):
            with self.desk.lock:
                if image in self.desk.in_review:
                    continue
                query = urlencode({"id": image, "tag": "final"})
                self.ask("withdraw label", partial(self.http, "DELETE", f"/datastore/label?{query}"))
                self.desk.labelled.discard(image)


class Watcher(Person):
    """Looks at the server's state as a dashboard and 3D Slicer do."""

    def __init__(self, desk: Desk, name: str, password: str, seed: int) -> None:
        super().__init__(desk, name, password, seed)
        self.training: list[tuple[float, bool]] = []
        self._rounds = 0
        self._trained = False

    def work(self) -> None:
        """One look at everything."""
        self.pause(1)
        runs = bool(self.ask("train status", partial(self.client.train_status, check_if_running=True)))
        self.training.append((time.monotonic() - self.desk.began, runs))
        self._trained |= runs
        if self._trained:  # until then the answer is 404
            self.ask("train status", self.client.train_status)
        self.ask("info", self.client.info)
        for path in ("/metrics", "/healthz", "/readyz"):
            self.ask(path, partial(self.http, "GET", path))
        self._rounds += 1
        if self._rounds % 5 == 0:
            self.ask("models", lambda: self.http("GET", "/models"))
            self.ask("events", lambda: self.http("GET", "/ledger/events?limit=50"))
