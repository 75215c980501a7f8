"""What is checked before a server starts, and what a person is told once it runs.

Only the standard library is imported at the top: a taken port or a mistyped folder is reported at once, not after the
ten seconds that MONAI Label takes to import.
"""

import base64
import errno
import ipaddress
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from lib.errors import BadInputError, NotFoundError, SettingsError, StorageError
from lib.files import try_writing
from lib.web.environment import IMAGE_PATTERNS


def check_address(host: str, port: int) -> None:
    """Make sure that a server can listen there.

    Raises:
        BadInputError: the port is taken or not allowed, or the host is not this machine.
    """
    if not 1 <= port <= 65535:
        msg = f"--port {port} is not a port; choose one from 1 to 65535"
        raise BadInputError(msg)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except UnicodeError as error:  # of the name's encoding
        msg = f"--host {host!r} is not the name of a machine; use 127.0.0.1 or 0.0.0.0"
        raise BadInputError(msg) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            msg = f"port {port} on {host} is taken by another program; stop that one or choose another with --port"
        elif isinstance(error, PermissionError):
            msg = f"port {port} needs administrator rights; choose one above 1023 with --port"
        else:
            msg = f"--host {host} is not an address of this machine ({error.strerror}); use 127.0.0.1 or 0.0.0.0"
        raise BadInputError(msg) from error


def check_app(app: Path) -> Path:
    """The absolute path of an app folder that MONAI Label can load.

    Raises:
        NotFoundError: no such folder, or it lacks `main.py` or `app.yaml`.
        StorageError: it can't be written; models and logs are kept in it.
    """
    if not app.is_dir():
        msg = f"the app folder {app} does not exist; give one such as apps/liver_tumor with --app"
        raise NotFoundError(msg)
    for name in ("main.py", "app.yaml"):
        if not (app / name).is_file():
            msg = f"{app} is not an app: it has no {name}; give a folder such as apps/liver_tumor with --app"
            raise NotFoundError(msg)
    _check_writable(app, "the app folder", "models and logs are kept in it")
    return app.resolve()


def check_conf(app: Path, conf: Sequence[Sequence[str]]) -> None:
    """Validate `app.yaml` together with the `--conf` overrides.

    Raises:
        SettingsError: an unknown key or a wrong value.
    """
    from lib.settings import load_settings  # brings pydantic and numpy, so it comes after the quick checks

    overrides: dict[str, str] = {}
    for key, value in conf:
        if key in overrides:
            msg = f"--conf {key} is given twice; keep one"
            raise SettingsError(msg)
        overrides[key] = value
    load_settings(app / "app.yaml", overrides)


def check_studies(studies: str) -> str:
    """The absolute path of a studies folder, or the URL of a DICOMweb server that answers.

    Raises:
        NotFoundError: no such folder, or nothing answers at the URL.
        BadInputError: it is a file or an empty text, or the server at the URL refuses.
        StorageError: the folder can't be written; labels are kept in it.
    """
    if studies.startswith(("http://", "https://")):
        _check_dicomweb(studies)
        return studies
    if not studies.strip():  # of an unset shell variable; pathlib would take the current folder
        msg = "--studies is empty; give the folder that holds the images"
        raise BadInputError(msg)
    folder = Path(studies).expanduser()
    if not folder.exists():
        msg = f"the studies folder {folder} does not exist; make it or correct --studies"
        raise NotFoundError(msg)
    if not folder.is_dir():
        msg = f"--studies {folder} is a file; give the folder that holds the images"
        raise BadInputError(msg)
    _check_writable(folder, "the studies folder", "labels are kept in it")
    return str(folder.resolve())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_url(host: str, port: int) -> str:
    """The address to open on this machine; 0.0.0.0 and :: mean every address and are reached by loopback."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def announcement(url: str, studies: str) -> str:
    """What to do next, as a block of lines for the terminal."""
    remote = studies.startswith(("http://", "https://"))
    count = 0 if remote else len({path for pattern in IMAGE_PATTERNS for path in Path(studies).glob(pattern)})
    ohif = f"{url}/ohif/" if remote else "reads from a PACS: start with --studies http://HOST:PORT/dicom-web"
    lines = [
        f"LiverLoop is ready at {url}",
        f"  studies    {studies}" + ("" if remote else f" ({count} image{'' if count == 1 else 's'})"),
        f"  3D Slicer  module MONAI Label > MONAI Label server: {url} > Next Sample > Auto-Segmentation",
        f"  OHIF       {ohif}",
        "  own data   scripts/serve --studies DIR (CTs as .nii.gz, .nii or .nrrd)",
        "  stop       Ctrl-C",
    ]
    return "\n".join(lines)


def wait_until_ready(url: str, patience_s: float = 300.0, pause_s: float = 0.5) -> bool:
    """Ask `/info/` until it answers; False when `patience_s` seconds have passed."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never ask a proxy for our own machine
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            with opener.open(f"{url}/info/", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:  # URLError is one: not listening yet
            time.sleep(pause_s)
    return False


def _check_writable(folder: Path, what: str, why: str) -> None:
    try:
        try_writing(folder)
    except OSError as error:
        msg = f"{what} {folder} can't be written ({error.strerror}); {why}: change its permissions or choose another"
        raise StorageError(msg) from error


def _check_dicomweb(url: str) -> None:
    # The names that MONAI Label reads the login from.
    user, password = (os.environ.get(f"MONAI_LABEL_DATASTORE_{name}", "") for name in ("USERNAME", "PASSWORD"))
    request = urllib.request.Request(f"{url.rstrip('/')}/studies?limit=1", headers={"Accept": "application/dicom+json"})
    if user:
        token = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=10):
            pass
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            msg = f"{url} refuses (HTTP {error.code}); set MONAI_LABEL_DATASTORE_USERNAME and _PASSWORD"
        else:
            msg = f"{url}/studies answers HTTP {error.code}; give the root of a DICOMweb service, often .../dicom-web"
        raise BadInputError(msg) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        msg = f"nothing answers at {url} ({reason}); start the PACS or correct --studies"
        raise NotFoundError(msg) from error
