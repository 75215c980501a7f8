"""What is checked before a server starts, and what a person is told once it runs.

Only the standard library is imported at the top: a taken port or a mistyped folder is reported at once, not after the
ten seconds that MONAI Label takes to import.
"""

import errno
import ipaddress
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import BadInputError, NotFoundError, SettingsError, StorageError
from lib.files import try_writing
from lib.web.environment import IMAGE_PATTERNS

if TYPE_CHECKING:
    from lib.settings import Settings

_LIKE_ADDRESS = re.compile(r":\d+(/|$)|dicom-?web", re.IGNORECASE)


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


def check_conf(app: Path, conf: Sequence[Sequence[str]]) -> "Settings":
    """Validate `app.yaml` together with the `--conf` overrides; returns the settings.

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
    return load_settings(app / "app.yaml", overrides)


def check_studies(studies: str, app: Path, conf: Sequence[Sequence[str]] = ()) -> str:
    """The absolute path of a studies folder, or the address of a PACS that lets us in or did before.

    Args:
        studies: a folder, or the root of a DICOMweb service.
        app: the app folder; only looked at for a PACS.
        conf: `--conf` overrides; likewise.

    Raises:
        NotFoundError: no such folder.
        BadInputError: it is a file or an empty text; or the PACS's address, login or certificates can't be used.
        StorageError: the folder can't be written, in which labels are kept; or the PACS can't be reached.
    """
    if studies.lower().startswith(("http://", "https://")):
        from lib.store.opening import reached_pacs  # brings much, so it comes after the quick checks

        return reached_pacs(studies, check_conf(app, conf), app)[0].settings.url
    if not studies.strip():  # of an unset shell variable; pathlib would take the current folder
        msg = "--studies is empty; give the folder that holds the images"
        raise BadInputError(msg)
    folder = Path(studies).expanduser()
    if not folder.exists():
        pacs = "; the address of a PACS begins with http:// or https://" if _LIKE_ADDRESS.search(studies) else ""
        msg = f"the studies folder {folder} does not exist; make it or correct --studies{pacs}"
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


_EVERY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def server_url(host: str, port: int, *, tls: bool = False) -> str:
    """The address to open on this machine; 0.0.0.0 and :: mean every address and are reached by loopback."""
    shown = _EVERY.get(host, host)
    scheme = "https" if tls else "http"
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"


def announcement(url: str, studies: str, login: str = "nobody is asked to log in", host: str = "127.0.0.1") -> str:
    """What to do next, as a block of lines for the terminal.

    Args:
        url: of the server.
        studies: a folder, or the address of a PACS.
        login: who must log in.
        host: of `--host`.
    """
    remote = studies.startswith(("http://", "https://"))
    count = 0 if remote else len({path for pattern in IMAGE_PATTERNS for path in Path(studies).glob(pattern)})
    ohif = f"{url}/ohif/" if remote else "reads from a PACS: start with --studies http://HOST:PORT/dicom-web"
    lines = [
        f"LiverLoop is ready at {url}",
        f"  studies    {studies}" + ("" if remote else f" ({count} image{'' if count == 1 else 's'})"),
        f"  login      {login}",
        *([f"  network    on other machines, this one's name in place of {_EVERY[host]}"] if host in _EVERY else []),
        f"  3D Slicer  module MONAI Label > MONAI Label server: {url} > Next Sample > Auto-Segmentation",
        f"  OHIF       {ohif}",
        "  own data   scripts/serve --studies DIR (CTs as .nii.gz, .nii or .nrrd)",
        "  stop       Ctrl-C",
    ]
    return "\n".join(lines)


def wait_until_ready(url: str, patience_s: float = 300.0, pause_s: float = 0.5) -> bool:
    """Ask `/healthz`, for which nobody must log in, until it answers; False when `patience_s` seconds have passed.

    An app that is not ours answers 404: its server runs as well. Whose certificate it is doesn't matter: nothing is
    sent, and the question is only whether this machine's server answers.
    """
    context = ssl._create_unverified_context()
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)  # never ask a proxy for our own machine
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            with opener.open(f"{url}/healthz", timeout=10) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return True
            time.sleep(pause_s)
        except OSError:  # URLError is one: not listening yet
            time.sleep(pause_s)
    return False


def _check_writable(folder: Path, what: str, why: str) -> None:
    try:
        try_writing(folder)
    except OSError as error:
        msg = f"{what} {folder} can't be written ({error.strerror}); {why}: change its permissions or choose another"
        raise StorageError(msg) from error
