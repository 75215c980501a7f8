"""`/models`: the model versions of the app over HTTP, and which of them annotators get."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from pydantic import BaseModel, StringConstraints

from lib.training.registry import Registry
from lib.web.clients import client_of

_Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$"),
]


class Publication(BaseModel):
    """Why a version is given to annotators, and who wants that."""

    reason: _Reason
    client_id: str | None = None


def install_models(app: FastAPI) -> None:
    """Add the endpoints under `/models`."""
    user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
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

    @models.post("/{version}/publish")
    def publish(version: str, wanted: Publication, request: Request, _: User = admin) -> dict[str, Any]:
        """Give a version to annotators: the next inference uses it."""
        by = client_of({"client_id": wanted.client_id}, request.client.host if request.client else None)
        return _registry().publish(version, by, wanted.reason).as_dict()

    app.include_router(models)


def _registry() -> Registry:
    """The running server's registry."""
    from monailabel.interfaces.utils.app import app_instance  # which exists only once the server runs

    registry: Registry = app_instance().registry
    return registry
