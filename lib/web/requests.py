"""Requests are checked and run off the event loop before MONAI Label's own handlers see them.

MONAI Label's handlers are `async` functions that block: one long inference stops every other client. Their bodies
are plain functions, which we call from plain endpoints, so that the framework runs them in its thread pool. And its
`params` may override anything, the image's path included, which is refused here, see `lib.web.guard.carried`.
"""

import json
import logging
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints import activelearning, batch_infer, datastore, infer, scoring, train
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.utils.async_tasks.utils import tasks

from lib.errors import BadInputError, NotFoundError, StorageError
from lib.inference.queue import asked_by
from lib.store import leases, versions
from lib.store.checksum import checksum_of
from lib.store.door import checked_identifier
from lib.store.layout import FINAL, ORIGINAL, STORED
from lib.store.leases import REVIEW
from lib.store.meaning import looked_at
from lib.store.store import Store
from lib.store.to_correct import in_review, renumbered
from lib.store.versions import Version
from lib.volume_io import IMAGE_SUFFIXES, read_label, stem_of, suffix_of, write_label
from lib.web.clients import address_of, client_of
from lib.web.connection import watch_connection
from lib.web.file_answers import label_answer
from lib.web.guard.callers import caller_of, token_of
from lib.web.guard.carried import Carried, checked
from lib.web.guard.carried_bodies import AddImageForm, InferForm, InfoForm, SaveLabelForm
from lib.web.guard.carried_params import (
    AllScoringParams,
    AllTrainParams,
    BatchParams,
    NextSampleParams,
    Params,
    ScoringParams,
    TrainParams,
)
from lib.web.received import image_suffix, received_label
from lib.web.session_requests import session_of

logger = logging.getLogger(__name__)

_STARTING = threading.Lock()


def install_requests(app: FastAPI) -> None:
    """Put our endpoints before MONAI Label's for what takes files, identifiers or long work."""
    user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

    def run_inference(
        background_tasks: BackgroundTasks,
        request: Request,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile | None = File(None),  # noqa: B008 - FastAPI's way to declare an upload
        label: UploadFile = File(None),  # noqa: B008
        output: infer.ResultType | None = None,
        _: User = user,
        gone: Callable[[], bool] = Depends(watch_connection),  # noqa: B008
    ) -> Any:
        sent = checked_form(InferForm, "params", params)
        if not (image or session_id or file):
            msg = "no image: give an image id, a session_id or a file"
            raise BadInputError(msg)
        if session_id:
            # 3D Slicer sends the name of its volume along, which may be anything such as "5: Abdomen/Pelvis".
            image, file = "", None
            session_of(_app().sessions(), session_id, request)
        if image:
            checked_identifier(image, "image id")
        if output is infer.ResultType.dicom_seg:  # MONAI Label would make it with programs that it downloads
            msg = "output=dicom_seg is not offered; with a PACS, a label that is submitted is stored there as DICOM SEG"
            raise BadInputError(msg)
        _app().check_inference(model, sent)
        sent["client_id"] = client_of(sent, request)
        if image:
            _renew(image, sent["client_id"])
        text = json.dumps(sent)
        if file:
            file = _named_by_content(file, "the image sent")
        with _tidied(background_tasks), asked_by(gone):
            # Of a label that comes along, such as scribbles, no model here makes use.
            answer = infer.run_inference(background_tasks, model, image, session_id, text, file, None, output)
            return label_answer(answer, request)

    def save_label(
        background_tasks: BackgroundTasks,
        request: Request,
        image: str,
        params: str = Form("{}"),
        tag: str = "final",
        label: UploadFile = File(...),  # noqa: B008
        caller: User = annotator,
    ) -> dict:
        sent = checked_form(SaveLabelForm, "params", params)
        checked_identifier(image, "image id")
        checked_identifier(tag or FINAL, "label tag")
        sent["client_id"] = client_of(sent, request)
        _renew(image, sent["client_id"])  # for a label that is refused, or is not the final one
        store = _store()
        if store is None:
            with _tidied(background_tasks):
                return datastore.save_label(background_tasks, image, json.dumps(sent), tag, label, caller.username)
        with received_label(label.file, f"label for image {image!r}") as path:
            version = store.save(image, path, tag or FINAL, sent, author=sent["client_id"])
        told = _app().on_save_label(image, image) or {}
        # With what the client can make sure by that its label arrived.
        kept = {"tag": version.tag, "version": version.number, "sha256": version.sha256, "voxels": version.voxels}
        kept |= looked_at(version.info)
        return {**told, "image": image, "label": image, **kept}

    def download_label(background_tasks: BackgroundTasks, label: str, tag: str, _: User = user) -> Any:
        # 3D Slicer loads the label "original" of an image that it is given; in a review that is the label to correct.
        version = _in_review(label) if tag == ORIGINAL else None
        if version is not None and looked_at(version.info):
            return _renumbered(version, background_tasks)
        return datastore.download_label(label, tag if version is None else FINAL)

    def add_image(
        background_tasks: BackgroundTasks,
        request: Request,
        image: str | None = None,
        params: str = Form("{}"),
        file: UploadFile = File(...),  # noqa: B008
        caller: User = annotator,
    ) -> dict:
        notes = json.dumps(checked_form(AddImageForm, "params", params))
        store = _store()
        if store is None or store.pacs_images is None:  # nothing can be added to a PACS, whatever its name
            # MONAI Label takes everything from the first dot for the suffix: case.1.2.nii.gz would become "case".
            image = checked_identifier(image or stem_of(file.filename or ""), "image id")
            file = _named_by_content(file, f"image {image!r}")
        with _tidied(background_tasks):
            return datastore.add_image(background_tasks, image, notes, file, _name(request, caller))

    def next_sample(
        background_tasks: BackgroundTasks,
        strategy: str,
        request: Request,
        params: dict | None = None,
        caller: User = user,
    ) -> dict:
        sent = checked_params(NextSampleParams, params)
        store = _store()
        if store is None:
            return activelearning.sample(strategy, sent, caller.username)
        # Not by MONAI Label's function, which describes every image of the folder on the way.
        asked = {"strategy": strategy} | sent | {"client_id": client_of(sent, request)}
        answer = _sample(store, _app().next_sample(asked))
        token = token_of(request.headers) if caller_of(request).name is not None else None
        if answer and token is not None and _app().settings.access.slicer_images:
            _app().handed_out.note(answer["id"], address_of(request), request.headers.get("host", ""), token)
        if answer and "label" not in answer:  # in a review there is a label already
            background_tasks.add_task(_app().prefetch, answer["id"], asked["client_id"])
        return answer

    def update_image_info(image: str, request: Request, info: str = Form("{}"), caller: User = annotator) -> None:
        datastore.update_image_info(image, json.dumps(checked_form(InfoForm, "info", info)), _name(request, caller))

    def update_label_info(
        label: str, tag: str, request: Request, info: str = Form("{}"), caller: User = annotator
    ) -> None:
        datastore.update_label_info(
            label, tag, json.dumps(checked_form(InfoForm, "info", info)), _name(request, caller)
        )

    def start_training(
        model: str,
        request: Request,
        params: dict | None = None,
        run_sync: bool = False,
        enqueue: bool = False,
        _: User = admin,
    ) -> Any:
        sent = checked_params(TrainParams, params)
        _app().check_training(model, sent)
        start = partial(train.run_model, model, _signed(sent, request), run_sync, enqueue)
        return start() if run_sync or enqueue else started_alone("train", start)

    def start_all_trainings(
        request: Request, params: dict | None = None, run_sync: bool = False, _: User = admin
    ) -> Any:
        sent = checked_params(AllTrainParams, params)
        trainers = _app().info()["trainers"]
        _check_names("model to train", sent, AllTrainParams, trainers)
        for_all = {key: value for key, value in sent.items() if key not in trainers}
        for model in trainers:
            _app().check_training(model, sent.get(model, {}) | for_all)  # as MONAI Label puts them together
        start = partial(train.run, _signed(sent, request), run_sync)
        return start() if run_sync else started_alone("train", start)

    def start_scoring(
        method: str, request: Request, params: dict | None = None, run_sync: bool = False, _: User = annotator
    ) -> Any:
        sent = checked_params(ScoringParams, params)
        _app().check_scoring(method)
        start = partial(scoring.run_method, method, _signed(sent, request), run_sync)
        return start() if run_sync else started_alone("scoring", start)

    def start_all_scorings(
        request: Request, params: dict | None = None, run_sync: bool = False, _: User = annotator
    ) -> Any:
        sent = checked_params(AllScoringParams, params)
        _check_names("scoring method", sent, AllScoringParams, _app().info()["scoring"])
        return scoring.run(_signed(sent, request), run_sync)

    def start_batch(
        model: str,
        request: Request,
        images: batch_infer.BatchInferImageType = batch_infer.BatchInferImageType.IMAGES_ALL,
        params: dict | None = None,
        run_sync: bool = False,
        _: User = admin,
    ) -> Any:
        sent = checked_params(BatchParams, params)
        _app().check_inference(model, sent)
        start = partial(batch_infer.run, model, images, _signed(sent, request), run_sync)
        return start() if run_sync else started_alone("batch_infer", start)

    ours = APIRouter(prefix=settings.MONAI_LABEL_API_STR)
    ours.post("/infer/{model}", tags=["Infer"])(run_inference)
    ours.put("/datastore/label", tags=["Datastore"])(save_label)
    ours.get("/datastore/label", tags=["Datastore"])(download_label)
    ours.put("/datastore/image", tags=["Datastore"])(add_image)
    ours.put("/datastore/", include_in_schema=False)(add_image)
    ours.post("/activelearning/{strategy}", tags=["ActiveLearning"])(next_sample)
    ours.put("/datastore/image/info", tags=["Datastore"])(update_image_info)
    ours.put("/datastore/label/info", tags=["Datastore"])(update_label_info)
    ours.post("/train/", include_in_schema=False)(start_all_trainings)
    ours.post("/train/{model}", tags=["Train"])(start_training)
    ours.post("/scoring/", include_in_schema=False)(start_all_scorings)
    ours.post("/scoring/{method}", tags=["Scoring"])(start_scoring)
    ours.post("/batch/infer/{model}", tags=["Infer"])(start_batch)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())  # the first route that matches answers


def checked_params(model: type[Params], sent: Any) -> dict[str, Any]:
    """What a JSON body holds, without defaults; none at all is `{}`.

    Raises:
        BadInputError: it is not what the model says.
    """
    return checked(model, {} if sent is None else sent).sent()


def checked_form(model: type[Carried], field: str, text: str | None) -> dict[str, Any]:
    """What the JSON object in a form's field holds, without defaults; an empty field is `{}`.

    Raises:
        BadInputError: it is no JSON object, or not what the model says.
    """
    found: dict[str, Any] = checked(model, {field: text}, "form").sent()[field]
    return found


def _check_names(kind: str, params: Mapping[str, Any], model: type[Params], known: Collection[str]) -> None:
    unknown = [name for name in params if name not in model.model_fields and name not in known]
    if unknown:
        msg = f"there is no {kind} {unknown[0]!r}; choose one of {', '.join(known)}"
        raise NotFoundError(msg)


def _named_by_content(upload: UploadFile, name: str) -> UploadFile:
    """An image under a name of ours, since MONAI Label tells by the name what a file is."""
    return UploadFile(upload.file, filename=f"image{image_suffix(upload.file, name)}")


def _sample(store: Store, chosen: dict[str, Any]) -> dict[str, Any]:
    """What a client gets to know of an image it is given; `{}` if none is left."""
    if not chosen:
        return {}
    image_id = chosen["id"]
    answer = {**_app().datastore().get_image_info(image_id), **chosen, "name": Path(chosen["path"]).name}
    if checksum := checksum_of(Path(chosen["path"]), suffix_of(chosen["path"], IMAGE_SUFFIXES)):
        answer["checksum"] = checksum
    if chosen["strategy"] == REVIEW:
        with store.ledger.reading() as connection:
            version = versions.current(connection, image_id, FINAL)
        if version is not None:
            query = urlencode({"label": image_id, "tag": FINAL})
            url = f"{settings.MONAI_LABEL_API_STR}/datastore/label?{query}"
            answer["label"] = {"tag": FINAL, "version": version.number, "url": url}
    return answer


def _renew(image_id: str, client_id: str) -> None:
    """Who works on an image keeps it; that it can't be noted is no reason to refuse the work."""
    store = _store()
    if store is None:
        return
    try:
        with store.ledger.reading() as connection:
            lease = leases.of_image(connection, image_id)
        if lease is None or lease.client_id != client_id:
            return
        with store.ledger.writing() as connection:
            leases.renew(connection, image_id, client_id, store.settings.store.lease_minutes * 60)
    except StorageError as error:
        logger.warning("the lease of %s is not renewed: %s", image_id, error)


def _in_review(image_id: str) -> Version | None:
    """The label to correct of an image that is in somebody's hands for review."""
    store = _store()
    if store is None:
        return None
    with store.ledger.reading() as connection:
        return in_review(connection, image_id)


def _renumbered(version: Version, removals: BackgroundTasks) -> FileResponse:
    """A partial label as 3D Slicer takes it; the file is removed after the answer."""
    store: Store = _app().datastore().store
    label = renumbered(read_label(store.labels.path(version)), store.settings.label_indices())
    with tempfile.NamedTemporaryFile(prefix="liverloop-", suffix=STORED, delete=False) as file:
        path = Path(file.name)
    removals.add_task(path.unlink)
    with _tidied(removals):
        write_label(path, label)
    return FileResponse(path, filename=f"{version.image_id}{STORED}", background=removals)


def started_alone(method: str, start: Callable[[], Any]) -> Any:
    """Start a background task unless one waits or runs; MONAI Label counts only those whose process exists already.

    Args:
        method: "train", "scoring" or "batch_infer".
        start: starts it.

    Returns:
        What `start` returns.

    Raises:
        HTTPException: another one waits or runs (429).
    """
    with _STARTING:
        if any(task["status"] in {"SUBMITTED", "RUNNING"} for task in tasks(method)):
            what = method.replace("_", " ")
            msg = f"a {what} task is running already; wait for its end or stop it"
            raise HTTPException(429, msg)
        return start()


@contextmanager
def _tidied(removals: BackgroundTasks) -> Iterator[None]:
    """Delete the received files of a refused request too; the framework does so only after an answer."""
    try:
        yield
    except Exception:
        for removal in removals.tasks:
            removal.func(*removal.args, **removal.kwargs)
        raise


def _app() -> Any:
    """The running app, which exists only once the server runs."""
    from monailabel.interfaces.utils.app import app_instance

    return app_instance()


def _store() -> Store | None:
    """The store of the folder or the PACS; None behind a datastore of another kind."""
    return getattr(_app().datastore(), "store", None)


def _name(request: Request, caller: User) -> str:
    """Who is logged in, else whom MONAI Label takes the caller for."""
    return caller_of(request).name or caller.username


def _signed(params: dict[str, Any], request: Request) -> dict[str, Any]:
    """With the name of who is logged in, for the record of the work that begins."""
    name = caller_of(request).name
    return params if name is None else params | {"client_id": name}
