#!/usr/bin/env python3
"""Start the MONAI Label server with the LiverLoop app; `scripts/serve` calls this inside .venv."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from lib.console import Parser, run
from lib.venv import enter_environment
from lib.web.environment import apply_environment, server_environment, share_heaps
from lib.web.launch import (
    announcement,
    check_address,
    check_app,
    check_conf,
    check_studies,
    is_loopback,
    server_url,
    wait_until_ready,
)
from lib.web.launch_login import check_environment, check_login, login_state
from lib.web.launch_tls import CIPHERS, Tls, check_tls

if TYPE_CHECKING:
    from lib.settings import Settings

_EPILOG = """\
examples:
  scripts/serve                                        sample CTs, on this machine only
  scripts/serve --studies ~/livers                     your own CTs: .nii.gz, .nii or .nrrd files in one folder
  scripts/serve --studies http://127.0.0.1:8042/dicom-web
                                                       a PACS with DICOMweb, for OHIF and for 3D Slicer
  scripts/serve --conf training.max_epochs 5 --conf postprocessing.fill_holes false
                                                       any key of app.yaml; docs/configuration.md lists them
  scripts/users.py add ann --role admin --studies ~/livers
  scripts/serve --studies ~/livers --host 0.0.0.0 --tls-certificate labels.pem --tls-key labels.key
                                                       for a network, by https; people log in (docs/access.md)

then:
  3D Slicer   install the extension MONAILabel, open the module MONAI Label, enter the server's address,
              press Next Sample, then Run under Auto Segmentation; correct; Submit Label
  OHIF        open ADDRESS/ohif/ (comes with MONAI Label; shows what is in the PACS)

Corrected labels are kept in labels/ beside the images, models and logs in the app's folder; for a PACS in a folder of
its own in pacs/ of the app's. LIVERLOOP_PACS_USER and LIVERLOOP_PACS_PASSWORD are its login. Variables such as
MONAI_LABEL_* and OMP_NUM_THREADS are kept if you set them. Ctrl-C or SIGTERM stops the server: requests that run
are finished, a training is ended and can be resumed (docs/operation.md); a second one ends it at once.
Exit code: 0 stopped, 2 wrong input, 3 the server could not start, 130 interrupted while starting or ended at once.
"""


def main() -> int:
    """Check everything that can be checked at once, then start and announce the server."""
    arguments = _parse()
    enter_environment()  # not before: --help needs none
    signal.signal(signal.SIGTERM, _stop)
    check_environment(os.environ)
    check_address(arguments.host, arguments.port)
    tls = _checked_tls(arguments)
    app = check_app(arguments.app)
    # Before anything that counts threads is imported.
    share_heaps()
    apply_environment(server_environment(os.environ, port=arguments.port))
    studies = None if arguments.studies is None else check_studies(arguments.studies, app, arguments.conf)
    settings = check_conf(app, arguments.conf)
    login = _checked_login(studies or str(_samples_folder()), settings, app, arguments.host)
    if studies is None:
        studies = _samples()
    url = server_url(arguments.host, arguments.port, tls=tls is not None)
    print(f"starting MONAI Label with {app.name}; this takes about 10 seconds", flush=True)
    threading.Thread(target=_announce, args=(url, studies, login, arguments.host), daemon=True).start()
    try:
        _serve(app, studies, tls, arguments)
    finally:
        _end_children()
    print("stopped", flush=True)
    return 0


def _parse() -> argparse.Namespace:
    parser = Parser(
        prog="scripts/serve",
        description="Sets up .venv if needed and starts the LiverLoop annotation server for 3D Slicer and OHIF.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--studies", metavar="DIR|URL", help="images to work on (default: sample CTs, fetched once)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--app",
        type=Path,
        default=REPOSITORY / "apps" / "liver_tumor",
        metavar="DIR",
        help="app folder with main.py and app.yaml (default: apps/liver_tumor)",
    )
    parser.add_argument(
        "--conf",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="override one key of app.yaml; may be repeated",
    )
    parser.add_argument(
        "--tls-certificate", type=Path, metavar="FILE", help="PEM file: serve https with this certificate"
    )
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM file with the certificate's key")
    parser.add_argument("--verbose", action="store_true", help="log our debugging messages too")
    return parser.parse_args()


def _checked_tls(arguments: argparse.Namespace) -> Tls | None:
    tls = check_tls(arguments.tls_certificate, arguments.tls_key)
    for warning in tls.warnings if tls else ():
        _warn(warning)
    if tls is None and not is_loopback(arguments.host):
        _warn(
            f"--host {arguments.host} without --tls-certificate and --tls-key: passwords and images cross the network "
            "in clear, unless a proxy on the way does TLS"
        )
    return tls


def _checked_login(studies: str, settings: "Settings", app: Path, host: str) -> str:
    """Who must log in, in words; refuses a start that would leave the server open or closed to everybody."""
    state = login_state(studies, settings, app)
    check_login(state, settings.access.login, host=host, loopback=is_loopback(host), studies=studies)
    if not state.needed:
        return "nobody is asked to log in, on this machine only (docs/access.md)"
    provider = f", or of {state.issuer}" if state.issuer else ""
    return f"as a user of scripts/users.py list{provider}"


def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")


def _samples_folder() -> Path:
    from lib.datasets.samples import DEFAULT_FOLDER

    return DEFAULT_FOLDER


def _samples() -> str:
    from lib.datasets.samples import DEFAULT_FOLDER, ensure_samples

    return str(ensure_samples(DEFAULT_FOLDER, lambda line: print(f"samples: {line}", flush=True)))


def _serve(app: Path, studies: str, tls: Tls | None, arguments: argparse.Namespace) -> None:
    import logging
    from functools import partial

    import uvicorn
    from monailabel.main import Main

    from lib.web.log import watch_errors, write_log_configuration

    uvicorn.run = partial(uvicorn.run, ssl_ciphers=CIPHERS)  # MONAI Label has no option for it
    watch_errors()
    log = write_log_configuration(app, verbose=arguments.verbose)
    sys.argv = ["monailabel", "start_server", *_server_arguments(app, studies, tls, log, arguments)]

    try:
        Main(loglevel=logging.WARNING, actions="start_server").run()
    except SystemExit as error:
        if error.code not in {0, None}:
            sys.stderr.write("error: the server could not start; the reason stands above\n")
        raise


def _server_arguments(
    app: Path, studies: str, tls: Tls | None, log: Path, arguments: argparse.Namespace
) -> Sequence[str]:
    conf = [part for pair in arguments.conf for part in ("--conf", *pair)]
    address = ("--host", arguments.host, "--port", str(arguments.port))
    files = ("--ssl_certfile", str(tls.certificate), "--ssl_keyfile", str(tls.key)) if tls else ()
    # Its own debugging messages quote requests, so that the level of the others is never theirs.
    ours = ("--log_config", str(log), "--uvicorn_app", "lib.web.guarded:app")
    return ["--app", str(app), "--studies", studies, *address, *files, *ours, "--verbose", "INFO", *conf]


def _announce(url: str, studies: str, login: str, host: str) -> None:
    if wait_until_ready(url):
        print(f"\n{announcement(url, studies, login, host)}\n", flush=True)


def _end_children() -> None:
    """End a training or scoring subprocess, which would otherwise go on without its server."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    for child in psutil.wait_procs(children, timeout=5)[1]:
        child.kill()


def _stop(*_: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    run(main)
