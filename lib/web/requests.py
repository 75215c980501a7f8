"""Requests are checked and run off the event loop before MONAI Label's own handlers see them.

MONAI Label's handlers are `async` functions that block: one long inference stops every other client. Their bodies
are plain functions, which we call from plain endpoints, so that the framework runs them in its thread pool. And its
`params` may override anything, the image's path included, which is refused here.
"""

import json
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, UploadFile
from fastapi.background import BackgroundTasks
from monailabel.config import settings
from monailabel.endpoints import activelearning, batch_infer, datastore, infer, train
from monailabel.endpoints.user.auth import RBAC, User

from lib.errors import BadInputError, NotFoundError
from lib.store.door import checked_identifier

# Set by the server itself; a client that sends them could read or write any file.
_RESERVED = {"image", "label", "session", "image_path", "bundle_path", "model_filename", "train_ds", "val_ds", "model"}


def parsed_params(text: str | None) -> dict[str, Any]:
    """The JSON object in a form's `params`.

    Raises:
        BadInputError: not a JSON object, or it sets a key that only the server may set.
    """
    try:
        params = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        msg = f"params is not valid JSON: {error}"
        raise BadInputError(msg) from error
    return checked_params(params)


def checked_params(params: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON the client sent
    """`params` without keys that only the server may set.

    Raises:
        BadInputError: not an object, or a reserved key is present.
    """
    if params is None:
        return {}
    if not isinstance(params, dict):
        msg = f"params must be a JSON object, not {type(params).__name__}"
        raise BadInputError(msg)
    reserved = sorted(_RESERVED & params.keys())
    if reserved:
        msg = f"params must not hold {', '.join(reserved)}; name images by their id in the request's address"
        raise BadInputError(msg)
    if "name" in params:
        checked_identifier(str(params["name"]), "run name")
    return params


def install_requests(app: FastAPI) -> None:
    """Put our endpoints before MONAI Label's for what takes files, identifiers or long work."""
    user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

    def run_inference(
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile = File(None),  # noqa: B008 - FastAPI's way to declare an upload
        label: UploadFile = File(None),  # noqa: B008
        output: infer.ResultType | None = None,
        _: User = user,
    ) -> Any:  # noqa: ANN401 - a file, JSON or multipart response
        parsed_params(params)
        if not (image or session_id or file):
            msg = "no image: give an image id, a session_id or a file"
            raise BadInputError(msg)
        if image:
            checked_identifier(image, "image id")
        if session_id:
            _checked_session(session_id)
        return infer.run_inference(background_tasks, model, image, session_id, params, file, label, output)

    def save_label(
        background_tasks: BackgroundTasks,
        image: str,
        params: str = Form("{}"),
        tag: str = "final",
        label: UploadFile = File(...),  # noqa: B008
        caller: User = annotator,
    ) -> dict:
        parsed_params(params)
        checked_identifier(image, "image id")
        checked_identifier(tag or "final", "label tag")
        return datastore.save_label(background_tasks, image, params, tag, label, caller.username)

    def add_image(
        background_tasks: BackgroundTasks,
        image: str | None = None,
        params: str = Form("{}"),
        file: UploadFile = File(...),  # noqa: B008
        caller: User = annotator,
    ) -> dict:
        parsed_params(params)
        if image:
            checked_identifier(image, "image id")
        return datastore.add_image(background_tasks, image, params, file, caller.username)

    def next_sample(strategy: str, params: dict | None = None, caller: User = user) -> dict:
        return activelearning.sample(strategy, checked_params(params), caller.username)

    def start_training(
        model: str, params: dict | None = None, run_sync: bool = False, enqueue: bool = False, _: User = admin
    ) -> Any:  # noqa: ANN401
        return train.run_model(model, checked_params(params), run_sync, enqueue)

    def start_batch(
        model: str,
        images: batch_infer.BatchInferImageType = batch_infer.BatchInferImageType.IMAGES_ALL,
        params: dict | None = None,
        run_sync: bool = False,
        _: User = admin,
    ) -> Any:  # noqa: ANN401
        return batch_infer.run(model, images, checked_params(params), run_sync)

    ours = APIRouter(prefix=settings.MONAI_LABEL_API_STR)
    ours.post("/infer/{model}", tags=["Infer"])(run_inference)
    ours.put("/datastore/label", tags=["Datastore"])(save_label)
    ours.put("/datastore/image", tags=["Datastore"])(add_image)
    ours.put("/datastore/", include_in_schema=False)(add_image)
    ours.post("/activelearning/{strategy}", tags=["ActiveLearning"])(next_sample)
    ours.post("/train/{model}", tags=["Train"])(start_training)
    ours.post("/batch/infer/{model}", tags=["Infer"])(start_batch)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())  # the first route that matches answers


def _checked_session(session_id: str) -> None:
    from monailabel.interfaces.utils.app import app_instance  # the app exists only once the server runs

    checked_identifier(session_id, "session id")
    sessions = app_instance().sessions()
    if sessions is None or sessions.get_session(session_id) is None:
        msg = f"there is no session {session_id!r}; it may have expired, send the image again"
        raise NotFoundError(msg)
