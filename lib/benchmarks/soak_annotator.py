"""Virtual annotators and reviewers of a soak."""

import hashlib
import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlparse

from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelUtils

from lib.benchmarks.soak_journal import Submission
from lib.benchmarks.soak_people import Desk, Person
from lib.benchmarks.soak_timings import End
from lib.files import file_sha256
from lib.volume import Volume
from lib.volume_io import read_label

_NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
_SHORTEST_S, _LONGEST_S = 0.005, 0.4  # until a client goes that does not wait for its answer


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
        strategy = str(self.chance.choice(["random", "first", "hybrid"]))
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
        # Not with one that has sent something else: it would send this with the type of that.
        session = self.ask("create session", lambda: self.new_client().create_session(path))
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
        path = self.folder / f"{image}.nii.gz"
        path.write_bytes(cases.content(image, label))
        if self.happens(0.05):  # a double click
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda client: self._save(client, image, path), (self.client, self.new_client())))
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
        path = self.folder / f"dropped-{image}.nii.gz"
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
            headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **self.headers}
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(bytes(body[:size]))
            time.sleep(float(self.chance.uniform(_SHORTEST_S, _LONGEST_S)))
        except OSError as error:
            self.note(kind, began, End.ERROR, repr(error))
            return
        finally:
            connection.close()
        self.note(kind, began, End.DROPPED)
