"""What is only looked up or removed, off the event loop.

MONAI Label's own endpoints for these block it: while one client's image is fetched from a PACS, no other is answered.
"""

from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from monailabel.config import settings
from monailabel.endpoints import datastore, info
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance

from lib.store.door import checked_identifier
from lib.web.guard.callers import caller_of


def install_lookups(app: FastAPI) -> None:
    """Put our endpoints before MONAI Label's."""
    user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

    def get_info(_: User = user) -> Any:
        """What the server has: models, trainers, strategies, labels, figures."""
        return info.app_info()

    def get_datastore(output: datastore.ResultType | None = None, _: User = user) -> Any:
        """How many images and labels there are, or all of them."""
        return datastore.datastore(output)

    def check_image(image: str, check_sum: str | None = None, _: User = user) -> Any:
        """Whether there is such an image, with this checksum."""
        return datastore.download_image(_checked(image), check_only=True, check_sum=check_sum)

    def download_image(image: str, _: User = user) -> Any:
        """The file of an image."""
        return datastore.download_image(_checked(image))

    def get_image_info(image: str, _: User = user) -> Any:
        """What is known of an image."""
        return datastore.get_image_info(_checked(image))

    def remove_image(id: str, request: Request, _: User = admin) -> dict[str, Any]:
        """Remove an image."""
        app_instance().datastore().remove_image(_checked(id), **_by(request))
        return {}

    def check_label(image: str, tag: str, _: User = user) -> Any:
        """Whether an image has such a label."""
        return datastore.download_label(_checked(image), tag, check_only=True)

    def get_label_info(label: str, tag: str, _: User = user) -> Any:
        """What is known of a label."""
        return datastore.get_label_info(_checked(label), tag)

    def remove_label(id: str, tag: str, request: Request, _: User = admin) -> dict[str, Any]:
        """Remove a label; its versions stay in the ledger."""
        app_instance().datastore().remove_label(_checked(id), tag, **_by(request))
        return {}

    ours = APIRouter(prefix=settings.MONAI_LABEL_API_STR)
    ours.get("/info/", tags=["App"])(get_info)
    ours.get("/datastore/", tags=["Datastore"])(get_datastore)
    ours.head("/datastore/image", tags=["Datastore"])(check_image)
    ours.get("/datastore/image", tags=["Datastore"])(download_image)
    ours.get("/datastore/image/info", tags=["Datastore"])(get_image_info)
    ours.delete("/datastore/image", tags=["Datastore"])(remove_image)
    ours.delete("/datastore/", include_in_schema=False)(remove_image)
    ours.head("/datastore/label", tags=["Datastore"])(check_label)
    ours.get("/datastore/label/info", tags=["Datastore"])(get_label_info)
    ours.delete("/datastore/label", tags=["Datastore"])(remove_label)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())  # the first route that matches answers


def _checked(image: str) -> str:
    return checked_identifier(image, "image id")


def _by(request: Request) -> dict[str, str]:
    """Who asks, where people log in."""
    name = caller_of(request).name
    return {} if name is None else {"by": name}
