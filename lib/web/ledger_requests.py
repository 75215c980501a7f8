"""`/ledger/...`: versions, leases, exclusions and what happened, over HTTP.

Only a studies folder has a ledger; `install_ledger` is for servers with one. Times go out in ISO format, files by their
path within the studies folder.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.access.roles import Role
from lib.errors import ForbiddenError, NotFoundError
from lib.store import events, images, leases, segs, versions
from lib.store.door import checked_identifier
from lib.store.event_export import event_as_json
from lib.store.layout import FINAL, STORED, checked_tag
from lib.store.leases import iso_time
from lib.store.report import version_as_json
from lib.store.store import Store
from lib.web.clients import client_of
from lib.web.guard.callers import caller_of
from lib.web.guard.carried_bodies import Decision, Restoration

_Number = Annotated[int, Query(ge=1, lt=2**31)]
_Limit = Annotated[int, Query(ge=1, le=1000)]


def install_ledger(app: FastAPI) -> None:
    """Add the endpoints under `/ledger`."""
    user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
    ledger = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/ledger", tags=["Ledger"])

    @ledger.get("/status")
    def status(_: User = user) -> dict[str, Any]:
        """How many images there are, wait, are labelled, excluded, and in somebody's hands; of a PACS, what waits."""
        store = _store()
        with store.ledger.reading() as connection:
            held = leases.list_all(connection)
            exchange = segs.status(store.ledger, connection)
            return {
                "images": images.counts(connection),
                "leases": len(held),
                "clients": len({lease.client_id for lease in held}),
                "database": store.ledger.url.get_backend_name(),
                **({"pacs": exchange} if exchange else {}),
            }

    @ledger.get("/images/{image}/versions")
    def history(image: str, tag: str | None = None, _: User = user) -> list[dict[str, Any]]:
        """Every version of an image's labels, the newest first; `current` is the one that is shown."""
        store = _store()
        checked_identifier(image, "image id")
        if tag is not None:
            checked_tag(tag)
        with store.ledger.reading() as connection:
            found = versions.history(connection, image, tag)
            if not found:
                images.get(connection, image)  # an image without a label, or none at all
            rows = {one: versions.shown(connection, image, one) for one in {version.tag for version in found}}
        current = {row.version_id for row in rows.values() if row is not None}
        return [version_as_json(store.layout, version, current) for version in found]

    @ledger.get("/images/{image}/versions/{tag}/{number}")
    def download(image: str, tag: str, number: Annotated[int, InPath(ge=1, lt=2**31)], _: User = user) -> FileResponse:
        """The file of a version."""
        store = _store()
        checked_identifier(image, "image id")
        with store.ledger.reading() as connection:
            version = versions.get(connection, image, checked_tag(tag), number)
        path = store.labels.path(version)
        if not path.is_file():
            msg = f"the file of version {number} of {image!r} is missing; run scripts/ledger.py check"
            raise NotFoundError(msg)
        return FileResponse(path, media_type="application/gzip", filename=f"{image}-{tag}-{number}{STORED}")

    @ledger.get("/images/{image}/diff")
    def diff(image: str, first: _Number, second: _Number, tag: str = FINAL, _: User = user) -> dict[str, Any]:
        """What changed from one version to another: Dice and volumes in ml for each class."""
        checked_identifier(image, "image id")
        classes = _store().labels.diff(image, checked_tag(tag), first, second)
        return {"image": image, "tag": tag, "first": first, "second": second, "classes": classes}

    @ledger.post("/images/{image}/restore")
    def restore(image: str, wanted: Restoration, request: Request, _: User = annotator) -> dict[str, Any]:
        """Make an old version the newest again; the answer is the new version."""
        store = _store()
        checked_identifier(image, "image id")
        author = _client(wanted.client_id, request)
        version = store.labels.restore(image, checked_tag(wanted.tag), wanted.number, author=author)
        return version_as_json(store.layout, version, {version.id})

    @ledger.get("/leases")
    def list_leases(_: User = user) -> list[dict[str, Any]]:
        """Which images are in whose hands, and until when."""
        with _store().ledger.reading() as connection:
            return [lease.described() for lease in leases.list_all(connection)]

    @ledger.delete("/leases/{image}")
    def release(image: str, request: Request, client_id: str | None = None, _: User = annotator) -> dict[str, Any]:
        """Take an image back from whoever has it; `client_id` is who does that. The answer is the lease that ended.

        Of another's image only a reviewer may do so.
        """
        checked_identifier(image, "image id")
        actor = _client(client_id, request)
        with _store().ledger.writing() as connection:
            held = leases.of_image(connection, image)
            if held is not None and held.client_id != actor and caller_of(request).role < Role.REVIEWER:
                msg = f"another has the image {image[:80]!r}; a reviewer can take it back"
                raise ForbiddenError(msg)
            lease = leases.free(connection, image, actor=actor, why="released on request")
        if lease is None:
            msg = f"nobody has the image {image[:80]!r}"
            raise NotFoundError(msg)
        return lease.described()

    @ledger.get("/excluded")
    def list_excluded(_: User = user) -> list[dict[str, str]]:
        """The images left out, with the reasons."""
        with _store().ledger.reading() as connection:
            return [{"image": image, "reason": reason} for image, reason in images.excluded(connection).items()]

    @ledger.get("/unfit")
    def list_unfit(_: User = user) -> list[dict[str, str]]:
        """The images that can't be offered, with the reasons."""
        with _store().ledger.reading() as connection:
            return [{"image": image, "reason": reason} for image, reason in images.unfit(connection).items()]

    @ledger.post("/images/{image}/exclude")
    def exclude(image: str, decision: Decision, request: Request, _: User = annotator) -> dict[str, Any]:
        """Leave an image out of every strategy, training and batch inference; who has it gets another next time."""
        checked_identifier(image, "image id")
        actor = _client(decision.client_id, request)
        with _store().ledger.writing() as connection:
            images.exclude(connection, image, decision.reason, actor)
            leases.free(connection, image, actor=actor, why="the image was excluded")
        return {"image": image, "excluded": decision.reason}

    @ledger.post("/images/{image}/include")
    def include(image: str, decision: Decision, request: Request, _: User = annotator) -> dict[str, Any]:
        """Take an excluded image back in."""
        checked_identifier(image, "image id")
        actor = _client(decision.client_id, request)
        with _store().ledger.writing() as connection:
            images.include(connection, image, decision.reason, actor)
        return {"image": image, "excluded": None}

    @ledger.get("/refused")
    def list_refused(image: str | None = None, limit: _Limit = 100, _: User = user) -> list[dict[str, Any]]:
        """The labels that were refused, the last first: why, and where what was sent is kept."""
        with _store().ledger.reading() as connection:
            found = events.history(connection, _checked(image), kind="label refused", limit=limit)
        return [
            {
                "image": event.image_id,
                "tag": event.tag,
                "reason": event.detail.get("reason"),
                "file": event.detail.get("file"),
                "sent_by": event.actor,
                "at": iso_time(event.at),
            }
            for event in found
        ]

    @ledger.get("/events")
    def list_events(
        image: str | None = None,
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        limit: _Limit = 100,
        _: User = user,
    ) -> list[dict[str, Any]]:
        """What happened, the last first: of one image or of all, with ids above `after`."""
        with _store().ledger.reading() as connection:
            return [
                event_as_json(event) for event in events.history(connection, _checked(image), after=after, limit=limit)
            ]

    app.include_router(ledger)


def _store() -> Store:
    """The running server's store."""
    from monailabel.interfaces.utils.app import app_instance  # which exists only once the server runs

    store: Store = app_instance().datastore().store
    return store


def _client(client_id: str | None, request: Request) -> str:
    return client_of({"client_id": client_id}, request)


def _checked(image: str | None) -> str | None:
    return None if image is None else checked_identifier(image, "image id")
