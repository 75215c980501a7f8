"""The server that `scripts/serve` starts: MONAI Label's with the guard in front.

Plain `monailabel start_server` does without the guard, and says so in its log.
"""

import os
from collections.abc import Mapping

from monailabel.app import app as server
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance

from lib.limits import MEGABYTE
from lib.store.account_events import plain
from lib.store.events import record
from lib.web.guard.callers import Caller
from lib.web.guard.guard import Guard, Site


def _site() -> Site:
    """What the guard must know; asked for when the server runs."""
    instance = app_instance()
    access, limits = instance.settings.access, instance.settings.limits
    return Site(
        logins=instance.logins,
        hosts=frozenset(name.lower() for name in access.hosts),
        origins=frozenset(str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS),
        watchers=list(access.metrics_from),
        upload_bytes=int(limits.upload_mb * MEGABYTE),
        seen=instance.metrics.request_done,
        note=_note,
        handed_out=instance.handed_out,
    )


def _note(kind: str, caller: Caller, address: str, detail: Mapping[str, str]) -> None:
    store = app_instance().store
    if store is None:
        return
    with store.ledger.writing() as connection:
        told, actor = plain(address), caller.name or f"anonymous@{plain(address)}"
        image = detail.get("image") or detail.get("label")  # a label is called by its image
        record(connection, kind, image, detail.get("tag"), actor=actor, detail={**detail, "from": told})


# MONAI Label would import all of `lib` a second time with the app, whose errors and callers the guard then didn't know.
os.environ["MONAI_LABEL_RELOAD_APP_LIB"] = "false"
server.state.guarded = True
app = Guard(server, _site)
