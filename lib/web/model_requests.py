"""`/models`: the model versions of the app over HTTP, and which of them annotators get."""

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from starlette.background import BackgroundTask

from lib.errors import NotFoundError
from lib.training.export import EXPORTS
from lib.training.registry import Registry
from lib.training.report import CONTENT_POLICY
from lib.web.clients import client_of
from lib.web.guard.carried_bodies import Publication

_EXPORTING = threading.Lock()  # PyTorch can't write two networks at once in one process


def install_models(app: FastAPI) -> None:
    """Add the endpoints under `/models`."""
    user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))  # as for MONAI Label's own download
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))  # as for starting a training
    models = APIRouter(prefix=f"{settings.MONAI_LABEL_API_STR}/models", tags=["Models"])

    @models.get("")
    def list_models(_: User = user) -> list[dict[str, Any]]:
        """Every version, the newest first and the starter last."""
        registry = _registry()
        registry.follow()  # of what scripts did meanwhile
        return [version.as_dict() for version in registry.list()]

    @models.get("/compare")
    def compare(first: str, second: str, _: User = user) -> dict[str, Any]:
        """Two versions' figures side by side."""
        return _registry().compare(first, second)

    @models.get("/{version}")
    def show(version: str, _: User = user) -> dict[str, Any]:
        """What is known of a version, given by its id, or as "published" or "starter"."""
        found = _registry().get(version)
        return {**found.as_dict(), "manifest": found.manifest}

    @models.get("/{version}/report")
    def report(version: str, _: User = user) -> FileResponse:
        """The page of the training that made a version: data, curves, comparison, worst cases as pictures."""
        found = _registry().get(version)
        if found.report is None:
            what = "came with the app" if found.is_starter else "was made without one, or it is missing"
            msg = f"the model version {found.id} has no report: it {what}"
            raise NotFoundError(msg)
        # It names cases, hence no copies on the way; and it needs no script.
        headers = {"Content-Security-Policy": CONTENT_POLICY, "Cache-Control": "no-store",
                   "X-Content-Type-Options": "nosniff"}  # fmt: skip
        return FileResponse(found.report, media_type="text/html; charset=utf-8", headers=headers)

    @models.get("/{version}/export")
    def export(version: str, format: Literal["torchscript", "onnx", "bundle"], _: User = annotator) -> FileResponse:
        """A version for use elsewhere as one file; a bundle comes as `.zip`."""
        registry = _registry()
        write, suffix = EXPORTS[format]
        folder = Path(tempfile.mkdtemp(prefix="liverloop-"))
        try:
            with _EXPORTING:
                path = folder / f"model{suffix}"
                found = write(registry, version, path)
            if path.is_dir():
                path = Path(shutil.make_archive(str(folder / "bundle"), "zip", path))
        except BaseException:
            shutil.rmtree(folder)
            raise
        remove = BackgroundTask(shutil.rmtree, folder)
        return FileResponse(path, filename=f"{found.id}{path.suffix}", background=remove)

    @models.post("/{version}/publish")
    def publish(version: str, wanted: Publication, request: Request, _: User = admin) -> dict[str, Any]:
        """Give a version to annotators: the next inference uses it."""
        by = client_of({"client_id": wanted.client_id}, request)
        return _registry().publish(version, by, wanted.reason).as_dict()

    app.include_router(models)


def _registry() -> Registry:
    """The running server's registry."""
    from monailabel.interfaces.utils.app import app_instance  # which exists only once the server runs

    registry: Registry = app_instance().registry
    return registry
