"""All endpoints of ours, put before MONAI Label's: the first route that matches answers."""

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from lib.dicomweb.forwarding import Forwarder
from lib.web.file_answers import send_large_pieces
from lib.web.front_page import install_front_page
from lib.web.guard.table import TABLE
from lib.web.health import install_health
from lib.web.job_requests import install_jobs
from lib.web.ledger_requests import install_ledger
from lib.web.login_requests import install_login
from lib.web.lookup_requests import install_lookups
from lib.web.metrics import install_metrics
from lib.web.model_requests import install_models
from lib.web.ohif import install_ohif
from lib.web.openapi import install_openapi
from lib.web.pacs_proxy import install_proxy
from lib.web.removal_requests import install_removals
from lib.web.requests import install_requests
from lib.web.session_requests import install_sessions

if TYPE_CHECKING:
    from lib.web.app import LiverLoopApp


def install_endpoints(server: FastAPI, app: "LiverLoopApp") -> None:
    """Install them for this app; what the server answers is described last, when all are there.

    Behind the guard, each needs a row in `lib.web.guard.table`.
    """
    store = app.store
    images = store.pacs_images if store else None
    send_large_pieces()
    install_front_page(server)
    install_health(server, app.check_ready)
    install_metrics(server, app.metrics)
    install_requests(server)
    install_sessions(server)
    install_lookups(server)
    install_removals(server)
    folders = {Path(app.app_dir): "(app folder)"}
    if store is not None and images is None:
        folders = {Path(app.studies): "(studies folder)", **folders}
    install_jobs(server, app.jobs, folders)
    install_models(server)
    install_proxy(server, Forwarder(images.pacs.settings) if images else None, app.stored_in_pacs)
    install_ohif(server, app.settings.labels if images else None)
    if store is not None:
        install_ledger(server)
    install_login(server, app.logins, server=app.settings.name, home="/ohif/" if images else "/")
    install_openapi(server, TABLE if getattr(server.state, "guarded", False) else ())
