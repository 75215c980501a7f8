"""What is only looked up, off the event loop.

MONAI Label's own endpoints for these block it: while one client's image is fetched from a PACS, no other is answered.
"""

from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from monailabel.config import settings
from monailabel.endpoints import datastore, info
from monailabel.endpoints.user.auth import RBAC, User

from lib.store.door import checked_identifier


def install_lookups(app: FastAPI) -> None:
    """Put our endpoints before MONAI Label's."""
    user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))

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

    def check_label(image: str, tag: str, _: User = user) -> Any:
        """Whether an image has such a label."""
        return datastore.download_label(_checked(image), tag, check_only=True)

    def get_label_info(label: str, tag: str, _: User = user) -> Any:
        """What is known of a label."""
        return datastore.get_label_info(_checked(label), tag)

    ours = APIRouter(prefix=settings.MONAI_LABEL_API_STR)
    ours.get("/info/", tags=["App"])(get_info)
    ours.get("/datastore/", tags=["Datastore"])(get_datastore)
    ours.head("/datastore/image", tags=["Datastore"])(check_image)
    ours.get("/datastore/image", tags=["Datastore"])(download_image)
    ours.get("/datastore/image/info", tags=["Datastore"])(get_image_info)
    ours.head("/datastore/label", tags=["Datastore"])(check_label)
    ours.get("/datastore/label/info", tags=["Datastore"])(get_label_info)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())  # the first route that matches answers


def _checked(image: str) -> str:
    return checked_identifier(image, "image id")
