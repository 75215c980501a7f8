"""Virtual annotators, reviewers and an administrator, with MONAI Label's own client."""

import hashlib
import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlparse

import numpy as np
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException, MONAILabelUtils

from lib.benchmarks.soak_cases import Cases
from lib.benchmarks.soak_journal import Journal, Submission
from lib.benchmarks.soak_timings import Asked, End, Timings
from lib.errors import LiverLoopError
from lib.files import file_sha256
from lib.volume import Volume
from lib.volume_io import read_label

_T = TypeVar("_T")
_STATUS = re.compile(r"Status: (\d{3}); Response: (.*)", re.DOTALL)
_LATER = re.compile(r"again in (\d+) s")
_NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
_LATER_STATUS = 503
# Others were faster: all images that are left are in their hands; a label was saved while it was being withdrawn.
_TOO_LATE = {("next sample", 409), ("next sample (review)", 409), ("withdraw label", 404)}
_SHORTEST_S, _LONGEST_S = 0.005, 0.4  # until a client goes that does not wait for its answer


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
        self._folder = desk.folder / name
        self._folder.mkdir(parents=True)
        self.client = MONAILabelClient(desk.url, tmpdir=str(self._folder), client_id=name)
        self._second = MONAILabelClient(desk.url, tmpdir=str(self._folder), client_id=name)
        self._headers: dict[str, str] = {}
        self.user = name  # to log in with
        self.logged_in = False

    def run(self) -> None:
        """Log in and work until the soak is over; what goes wrong is an error and no reason to stop."""
        try:
            self.log_in()
            while not self.desk.over.is_set():
                try:
                    self.work()
                except (LiverLoopError, OSError, KeyError, ValueError, TypeError) as error:
                    self._note("annotator's own", time.monotonic(), End.ERROR, repr(error))
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
        for client in (self.client, self._second):
            client.update_auth(token)
        self._headers = {"Authorization": f"{token['token_type']} {token['access_token']}"}
        self.logged_in = True

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
                    self._note(kind, began, End.LATER)
                    self.pause(float(later[1]))
                    continue
                late = (kind, status) in _TOO_LATE
                self._note(kind, began, End.LATE if late else End.ERROR, f"{status} {told[:300]}")
                return None
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._note(kind, began, End.ERROR, repr(error)[:300])
                return None
            self._note(kind, began, End.DONE)
            return result

    def http(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """A request that the client has no function for.

        Raises:
            MONAILabelClientException: the answer is not 200.
        """
        status, content, _, _ = MONAILabelUtils.http_method(
            method, self.desk.url, path, None if body is None else dict(body), headers=dict(self._headers)
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
        self._note(kind, time.monotonic(), End.ERROR, told)

    def _note(self, kind: str, began: float, end: End, told: str = "") -> None:
        now = time.monotonic()
        self.desk.timings.note(Asked(kind, began - self.desk.began, now - began, end), f"{self.name}: {told}")


class Annotator(Person):
    """Gets an image, segments it, corrects the result, submits it; now and then something goes otherwise.

    Args:
        desk: what all share.
        name: see `Person`.
        password: see there.
        seed: see there.
        reviews: also reviews, compares and restores.
    """

    def __init__(self, desk: Desk, name: str, password: str, seed: int, *, reviews: bool) -> None:
        super().__init__(desk, name, password, seed)
        self._reviews = reviews

    def work(self) -> None:
        """One image."""
        self.think()
        if self._reviews and self.happens(0.5):
            self._review()
            return
        strategy = str(self.chance.choice(["random", "first", "uncertainty"]))
        sample = self.ask("next sample", lambda: self.client.next_sample(strategy, {}))
        if not sample:
            self.pause(1)
            return
        image = sample["id"]
        content = self.ask("download image", lambda: self.http("GET", f"/datastore/image?image={quote(image)}"))
        if content is not None and hashlib.sha256(content).hexdigest() != self.desk.cases.sha256[image]:
            self.wrong("download image", f"{image} came with other bytes")
        if self.happens(0.1):
            self._drop_infer(image)
        answer = self._answer(image)
        if answer is None:
            return
        self.think()
        self._submit(image, answer)

    def _answer(self, image: str) -> Volume | None:
        """By its id, which may be answered with a kept result; or as a session or a file, which never is."""
        how = self.chance.random()
        if how < 0.15:
            return self._infer_session(image)
        return self._infer_file(image) if how < 0.3 else self._infer(image)

    def _infer(self, image: str) -> Volume | None:
        params = {"result_extension": ".nii.gz" if self.happens(0.3) else ".nrrd", "result_dtype": "uint8"}
        return self._segmented("infer", image, lambda: self.client.infer(self.desk.model, image, dict(params)))

    def _infer_file(self, image: str) -> Volume | None:
        path, params = str(self.desk.cases.path(image)), {"result_extension": ".nrrd"}
        return self._segmented(
            "infer file", image, lambda: self.client.infer(self.desk.model, "", dict(params), file=path)
        )

    def _infer_session(self, image: str) -> Volume | None:
        """As for an image that is not the server's."""
        path = str(self.desk.cases.path(image))
        session = self.ask("create session", lambda: self.client.create_session(path))
        if session is None:
            return None
        number = session["session_id"]
        params = {"result_extension": ".nrrd"}
        answer = self._segmented(
            "infer session", image, lambda: self.client.infer(self.desk.model, "", dict(params), session_id=number)
        )
        self.ask("remove session", lambda: self.client.remove_session(number))
        return answer

    def _segmented(self, kind: str, image: str, action: Callable[[], tuple[str, dict[str, Any]]]) -> Volume | None:
        answered = self.ask(kind, action)
        if answered is None:
            return None
        path, params = answered
        label = read_label(path)
        Path(path).unlink()
        self.desk.versions.setdefault(str(params.get("model_version")), time.monotonic() - self.desk.began)
        if not self.desk.cases.fits(image, label):
            self.wrong(kind, f"the segmentation of {image} is not on its grid")
            return None
        return label

    def _submit(self, image: str, answer: Volume) -> None:
        cases = self.desk.cases
        label = cases.truth(image) if self.happens(0.3) else cases.corrected(image, answer, self.chance)
        if self.happens(0.08):
            self._drop_upload(image, label, whole=self.happens(0.5))
            self.think()
        path = self._folder / f"{image}.nii.gz"
        path.write_bytes(cases.content(image, label))
        if self.happens(0.05):  # a double click
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda client: self._save(client, image, path), (self.client, self._second)))
        else:
            self._save(self.client, image, path)
        path.unlink()

    def _save(self, client: MONAILabelClient, image: str, path: Path) -> None:
        submission = Submission(self.name, image, file_sha256(path))
        self.desk.journal.sends(submission)
        answer = self.ask("save label", lambda: client.save_label(image, str(path), "final", {"label_info": _NAMES}))
        if answer is not None:
            self.desk.journal.saved(submission, answer)
            self.desk.labelled.add(image)

    def _review(self) -> None:
        with self.desk.lock:
            sample = self.ask("next sample (review)", lambda: self.client.next_sample("review", {}))
            if not sample:
                return
            image = sample["id"]
            self.desk.in_review.add(image)
        try:
            path = self.ask("download label", lambda: self.client.download_label(image, "final"))
            if path is None:
                return
            self.desk.journal.shown(image, file_sha256(path))
            label = read_label(path)
            Path(path).unlink()
            self._look_back(image)
            self.think()
            self._submit(image, label)
        finally:
            with self.desk.lock:
                self.desk.in_review.discard(image)

    def _look_back(self, image: str) -> None:
        """Compare two versions, and now and then make an old one the newest again."""
        name = quote(image)
        content = self.ask("versions", lambda: self.http("GET", f"/ledger/images/{name}/versions?tag=final"))
        numbers = [version["number"] for version in json.loads(content or b"[]")]
        if len(numbers) < 2:
            return
        first, second = (int(number) for number in self.chance.choice(numbers, 2, replace=False))
        query = urlencode({"first": first, "second": second})
        self.ask("compare versions", lambda: self.http("GET", f"/ledger/images/{name}/diff?{query}"))
        if self.happens(0.3):
            asked = {"number": first, "client_id": self.name}
            restored = self.ask("restore", lambda: self.http("POST", f"/ledger/images/{name}/restore", asked))
            if restored is not None:
                self.desk.journal.restored(self.name, json.loads(restored))

    def _drop_infer(self, image: str) -> None:
        """Ask for a segmentation and go before it comes."""
        fields = {"params": json.dumps({"client_id": self.name, "result_extension": ".nrrd"})}
        content_type, body = MONAILabelUtils.encode_multipart_formdata(fields, {})
        self._drop("infer", f"/infer/{self.desk.model}?image={quote(image)}", "POST", content_type, body, len(body))

    def _drop_upload(self, image: str, label: Volume, *, whole: bool) -> None:
        """Send a label, or half of it, and go before the answer comes."""
        content = self.desk.cases.content(image, label)
        submission = Submission(self.name, image, hashlib.sha256(content).hexdigest())
        path = self._folder / f"dropped-{image}.nii.gz"
        path.write_bytes(content)
        fields = {"params": json.dumps({"client_id": self.name, "label_info": _NAMES})}
        content_type, body = MONAILabelUtils.encode_multipart_formdata(fields, {"label": str(path)})
        path.unlink()
        if whole:
            self.desk.journal.sends(submission)
        else:
            self.desk.journal.cuts(submission)
        size = len(body) if whole else int(self.chance.integers(len(body) // 4, len(body) - 100))
        selector = f"/datastore/label?image={quote(image)}&tag=final"
        self._drop("save label", selector, "PUT", content_type, body, size)

    def _drop(self, kind: str, selector: str, method: str, content_type: str, body: bytes, size: int) -> None:
        """Send so many bytes of a body that is said to be complete, then close the connection."""
        began = time.monotonic()
        address = urlparse(self.desk.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        try:
            connection.putrequest(method, selector)
            headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **self._headers}
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(bytes(body[:size]))
            time.sleep(float(self.chance.uniform(_SHORTEST_S, _LONGEST_S)))
        except OSError as error:
            self._note(kind, began, End.ERROR, repr(error))
            return
        finally:
            connection.close()
        self._note(kind, began, End.DROPPED)


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
