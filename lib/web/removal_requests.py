"""Removing images and labels over HTTP: as MONAI Label does it, but off the event loop and with the name of who did."""

from fastapi import APIRouter, Depends, FastAPI, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from lib.store.door import checked_identifier
from lib.store.folder import ADMINISTRATOR, FolderDatastore
from lib.store.layout import checked_tag
from lib.web.guard.callers import caller_of


def install_removals(app: FastAPI) -> None:
    """Put our endpoints before MONAI Label's."""
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

    def remove_image(id: str, request: Request, _: User = admin) -> dict[str, str]:
        """Remove an image and take its labels back; their versions stay."""
        _datastore().remove_image(checked_identifier(id, "image id"), by=caller_of(request).name or ADMINISTRATOR)
        return {}

    def remove_label(id: str, tag: str, request: Request, _: User = admin) -> dict[str, str]:
        """Take a label back; its versions stay."""
        by = caller_of(request).name or ADMINISTRATOR
        _datastore().remove_label(checked_identifier(id, "image id"), checked_tag(tag), by=by)
        return {}

    ours = APIRouter(prefix=settings.MONAI_LABEL_API_STR)
    ours.delete("/datastore/image", tags=["Datastore"])(remove_image)
    ours.delete("/datastore/", include_in_schema=False)(remove_image)
    ours.delete("/datastore/label", tags=["Datastore"])(remove_label)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())  # the first route that matches answers


def _datastore() -> FolderDatastore:
    """The running server's datastore."""
    from monailabel.interfaces.utils.app import app_instance  # which exists only once the server runs

    datastore: FolderDatastore = app_instance().datastore()
    return datastore
