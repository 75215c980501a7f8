"""A server, the folders around it, and whoever attacks it."""

import http.client
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests

from lib.volume import Volume
from lib.volume_io import write_image
from tests.loop.running_server import PATIENCE_S, RunningServer
from tests.loop.studies import manifest

SECRET = "the words of a file that nobody may read"


@dataclass
class Site:
    """A running server in `root`, which has `studies`, `app`, `run` and, beside them, `outside`.

    Args:
        server: the server.
        root: the folder of all that.
        model: name of its model.
        scoring: name of a scoring method.
        token: of the attacker's login; None for one who has none.
        cookie: the same as a browser sends it.
    """

    server: RunningServer
    root: Path
    model: str
    scoring: str
    token: str | None = None
    cookie: str | None = None
    answers: list[tuple[str, int]] = field(default_factory=list)

    @property
    def outside(self) -> Path:
        """What no request may read or change."""
        return self.root / "outside"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def sessions(self) -> Path:
        return self.root / "run" / "sessions"

    @property
    def temporary(self) -> Path:
        return self.server.temporary

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """A request as its writer means it, with the attacker's login."""
        headers = dict(options.pop("headers", {}))
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.cookie:
            headers["Cookie"] = self.cookie
        answer = requests.request(
            method, self.server.url + path, headers=headers, timeout=options.pop("timeout", PATIENCE_S),
            allow_redirects=False, **options,
        )  # fmt: skip
        self.answers.append((f"{method} {path}", answer.status_code))
        return answer

    def raw(self, method: str, path: str) -> int:
        """The status of an address that other clients would tidy up."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connection.request(method, path, headers=headers)
        status = connection.getresponse().status
        connection.close()
        self.answers.append((f"{method} {path}", status))
        return status

    def infer(self, params: dict[str, Any] | None = None, **query: str) -> bool:
        """Whether the model's answer to `/infer/` comes."""
        sent = {"params": json.dumps(params or {})}
        return self.ask("POST", f"/infer/{self.model}", params=query, data=sent).status_code == 200

    def offer(self, kind: str, name: str, content: bytes, **query: str) -> bool:
        """Whether an upload to `/datastore/image` or `/datastore/label` is taken."""
        files = {"file" if kind == "image" else "label": (name, content)}
        return self.ask("PUT", f"/datastore/{kind}", params=query, files=files).status_code == 200

    def state(self) -> dict[str, str]:
        """All that attacks must leave alone: images, labels, weights, what is outside, and no leftovers."""
        found = manifest(self.root)
        return {name: sha for name, sha in found.items() if not name.endswith((".log", ".sqlite-wal", ".sqlite-shm"))}


def prepare_outside(folder: Path) -> None:
    """Files that only the server's owner should see, and a data list that names them."""
    folder.mkdir(parents=True)
    (folder / "secret.txt").write_text(SECRET)
    write_image(folder / "secret.nii.gz", a_volume())
    secret = str(folder / "secret.nii.gz")
    (folder / "cases.json").write_text(json.dumps([{"image": secret, "label": secret}]))


def a_volume() -> Volume:
    """A small image with a pattern, from air to bone."""
    return Volume(
        (np.arange(8 * 8 * 4) % 8 * 200 - 1000).astype(np.int16).reshape(8, 8, 4), np.diag([-1.0, -1.0, 2.0, 1.0])
    )
