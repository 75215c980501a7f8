"""A real MONAI Label server on a loopback port, with an app folder of its own, ended whatever happens."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import requests
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelUtils

from lib.web.log_lines import UNFORESEEN
from tests.loop.preparation import PATIENCE_S, REPOSITORY, Copy, Preparation

PLAIN = ("monailabel.main", "start_server")  # what the command `monailabel` runs
OURS = (str(REPOSITORY / "scripts" / "serve.py"),)
APP = REPOSITORY / "apps" / "liver_tumor"
MODEL = "liver_tumor"

_PROGRAMS = Path(sys.executable).parent
_MAIN_PY = '''"""A second app: its own app.yaml, everything else from LiverLoop."""

import sys

sys.path.insert(0, {repository!r})

from lib.web.app import LiverLoopApp


class SecondApp(LiverLoopApp):
    """What `app.yaml` beside this file describes."""
'''


class Answer(NamedTuple):
    """Status and reason of an answer, or its JSON where there is no reason."""

    status: int
    reason: Any


def make_app(folder: Path) -> Path:
    """An app folder outside the repository as a site would write it: app.yaml, weights, a main.py of a few lines."""
    folder.mkdir(parents=True)
    (folder / "main.py").write_text(_MAIN_PY.format(repository=str(REPOSITORY)))
    (folder / "app.yaml").write_text((APP / "app.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "starter.pt").symlink_to(APP / "starter.pt")  # only ever read
    return folder


def copy_app(folder: Path) -> Path:
    """The repository's own app with its own main.py, where it may be written to; `lib` is linked beside it."""
    app = folder / "apps" / MODEL
    app.mkdir(parents=True)
    (folder / "lib").symlink_to(REPOSITORY / "lib")
    for name in ("main.py", "app.yaml"):
        (app / name).write_bytes((APP / name).read_bytes())
    (app / "starter.pt").symlink_to(APP / "starter.pt")
    return app


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], what: str, pause_s: float = 0.2) -> Any:
    """The condition's first true result."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(pause_s)
    msg = f"waited {PATIENCE_S:.0f} s in vain for {what}"
    raise TimeoutError(msg)


class RunningServer:
    """Starts a server and waits until it answers; use it as a context manager.

    Args:
        warm: makes it start within some seconds, see `tests.loop.warm_parent`; None: a process of its own.
        studies: the studies folder, or the address of a PACS.
        folder: gets the log, the sessions and the client's downloads.
        app: an app folder that may be written to.
        conf: `--conf` overrides of `app.yaml`.
        environment: variables beside those that every MONAI Label user needs.
        command: `PLAIN` or `OURS`; without `warm` any.
        options: more arguments; with a certificate the server is asked by https.
        working_directory: of the server's process.
    """

    def __init__(
        self,
        warm: Preparation | None,
        studies: Path | str,
        folder: Path,
        *,
        app: Path,
        conf: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = PLAIN,
        options: Sequence[str] = (),
        working_directory: Path | None = None,
    ) -> None:
        self._warm = warm
        self.studies, self.folder, self.app = Path(studies), folder, app
        self.port = free_port()
        self.url = f"{'https' if '--tls-certificate' in options else 'http'}://127.0.0.1:{self.port}"
        self.log_file = folder / "server.log"
        self.temporary = folder / "temporary"
        for path in (folder / "downloads", self.temporary):
            path.mkdir(parents=True)
        self._command = [
            *command,
            *("--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(self.port)),
            *(part for key, value in (conf or {}).items() for part in ("--conf", key, str(value))),
            *options,
        ]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MONAI_LABEL_")}
        self._environment = inherited | {
            "PATH": os.pathsep.join([str(_PROGRAMS), os.environ["PATH"]]),
            "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
            "TMPDIR": str(self.temporary),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self._working_directory = working_directory or folder
        self._process: subprocess.Popen[bytes] | Copy | None = None

    def __enter__(self) -> "RunningServer":
        self._process = self._begin()
        try:
            wait_until(self._answers, f"the first answer of {' '.join(self._command)}", pause_s=0.05)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.end()
        if kind is None:  # whatever clients sent: no thread of the server broke off
            for word in ("Traceback", UNFORESEEN):
                assert word not in self.log(), self.log().partition(word)[2][:4000]

    @property
    def process(self) -> psutil.Process:
        """The server's process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def client(self, client_id: str = "annotator") -> MONAILabelClient:
        """MONAI Label's own client, as 3D Slicer uses it."""
        return MONAILabelClient(self.url, tmpdir=str(self.folder / "downloads"), client_id=client_id)

    def children(self) -> list[psutil.Process]:
        """Training, scoring or batch processes that the server runs now."""
        return [child for child in self.process.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]

    def log(self) -> str:
        """What server and subprocesses printed so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def ask(self, method: str, path: str, **options: Any) -> Answer:
        """A plain HTTP request; for what the client can't send or hides."""
        answer = requests.request(method, self.url + path, timeout=PATIENCE_S, **options)
        try:
            content = answer.json()
        except requests.JSONDecodeError:
            return Answer(answer.status_code, answer.text)
        return Answer(answer.status_code, content.get("detail", content) if isinstance(content, dict) else content)

    def infer(self, image: str | None = None, params: Any = None, file: Path | None = None, **query: str) -> Answer:
        """POST to `/infer/`, with `params` as text or as what becomes JSON."""
        text = params if isinstance(params, str) else json.dumps(params or {})
        asked = ({} if image is None else {"image": image}) | query
        if file is None:
            return self.ask("POST", f"/infer/{MODEL}", params=asked, data={"params": text})
        with file.open("rb") as content:
            files = {"file": (file.name, content)}
            return self.ask("POST", f"/infer/{MODEL}", params=asked, data={"params": text}, files=files)

    def finished(self, path: str) -> dict[str, Any]:
        """The status of the background task at `/train/`, `/scoring/` or `/batch/infer` once it has ended."""

        def ended() -> dict[str, Any] | None:
            task = self.ask("GET", path).reason
            return task if isinstance(task, dict) and task["status"] not in {"SUBMITTED", "RUNNING"} else None

        return dict(wait_until(ended, f"the end of {path}"))

    def wait_for_removals(self) -> None:
        """Until the files of answers, which go after the answers, are gone."""
        wait_until(lambda: not [*self.temporary.rglob("*.nrrd")], "the removal of the answers' files", pause_s=0.05)

    def interrupt(self, signal_number: int = signal.SIGINT) -> int:
        """Ctrl-C, or another signal to the server alone; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal_number)
        return self._process.wait(PATIENCE_S)

    def end(self) -> None:
        """End the whole process group, and only that."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # also a subprocess that the server left behind
        self._process.wait()

    def _begin(self, *more: str) -> subprocess.Popen[bytes] | Copy:
        command = [*self._command, *more]
        if self._warm is not None:
            return self._warm.copy(command, self._environment, self.log_file, self._working_directory)
        with self.log_file.open("wb") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                cwd=self._working_directory,
                start_new_session=True,  # a process group of its own, which can be ended as a whole
            )

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            msg = f"the server ended with {self._process.returncode} before it answered:\n{self.log()[-4000:]}"
            raise RuntimeError(msg)
        try:
            return requests.get(f"{self.url}/info/", timeout=30).status_code in {200, 401}  # the latter with users
        except requests.ConnectionError:
            return False


def open_session(server: RunningServer, paths: Sequence[Path]) -> str:
    """Send the files of one series as OHIF does, which the client's own call can't; returns the session's id."""
    files = [str(path) for path in paths]
    status, text, _ = MONAILabelUtils.http_upload("PUT", server.url, "/session/", {}, files)
    assert status == 200, text
    return str(json.loads(text)["session_id"])


def epoch_lines(details: Sequence[str]) -> list[str]:
    """The lines of a training's status that tell of finished epochs."""
    return [line for line in details if re.search(r"epoch \d+/\d+: (loss|training|validation)", line)]
