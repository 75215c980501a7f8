"""Requests are checked and run off the event loop before MONAI Label's own handlers see them.

MONAI Label's handlers are `async` functions that block: one long inference stops every other client. Their bodies
are plain functions, which we call from plain endpoints, so that the framework runs them in its thread pool. And its
`params` may override anything, the image's path included, which is refused here.
"""

import json
import logging
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
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
from lib.training.recording import BY_ITSELF
from lib.volume_io import IMAGE_SUFFIXES, read_label, stem_of, suffix_of, write_label
from lib.web.clients import client_of
from lib.web.connection import watch_connection
from lib.web.guard.callers import caller_of

logger = logging.getLogger(__name__)

# Set by the server itself; a client that sends them could read or write any file.
_RESERVED = {
    "image", "label", "session", "image_path", "bundle_path", "model_filename", "train_ds", "val_ds", "model", "method",
    BY_ITSELF, "local_rank", "distributed_url",
}  # fmt: skip
_STARTING = threading.Lock()
_LONGEST_REASON = 500
_GPUS = re.compile(r"all|\d+(,\d+)*|")


def parsed_object(text: str | None, what: str) -> dict[str, Any]:
    """The JSON object in a form's field; `{}` if it is empty.

    Raises:
        BadInputError: not JSON, or not an object.
    """
    try:
        content = json.loads(text) if text else {}
    except (json.JSONDecodeError, RecursionError) as error:
        msg = f"{what} is not valid JSON: {error}"
        raise BadInputError(msg) from error
    if not isinstance(content, dict):
        msg = f"{what} must be a JSON object, not {type(content).__name__}"
        raise BadInputError(msg)
    return content


def parsed_params(text: str | None) -> dict[str, Any]:
    """The JSON object in a form's `params`, checked.

    Raises:
        BadInputError: not a JSON object, or see `checked_params`.
    """
    return checked_params(parsed_object(text, "params"))


def checked_params(params: Any) -> dict[str, Any]:
    """`params` without keys that only the server may set.

    Raises:
        BadInputError: not an object, a reserved key is present, or a value that MONAI Label itself would fail on.
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
    for key, what in (("name", "run name"), ("label_tag", "label tag")):
        if key in params:
            checked_identifier(str(params[key]), what)
    for key, (fits, expected) in _CHECKS.items():
        if key in params and not fits(params[key]):
            msg = f"{key} = {params[key]!r} can't be used; expected {expected}"
            raise BadInputError(msg)
    return params


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
        file: UploadFile = File(None),  # noqa: B008 - FastAPI's way to declare an upload
        label: UploadFile = File(None),  # noqa: B008
        output: infer.ResultType | None = None,
        _: User = user,
        gone: Callable[[], bool] = Depends(watch_connection),  # noqa: B008
    ) -> Any:
        checked = parsed_params(params)
        if not (image or session_id or file):
            msg = "no image: give an image id, a session_id or a file"
            raise BadInputError(msg)
        if session_id:
            # 3D Slicer sends the name of its volume along, which may be anything such as "5: Abdomen/Pelvis".
            image = ""
            _check_session(session_id)
        if image:
            checked_identifier(image, "image id")
        if output is infer.ResultType.dicom_seg:  # MONAI Label would make it with programs that it downloads
            msg = "output=dicom_seg is not offered; with a PACS, a label that is submitted is stored there as DICOM SEG"
            raise BadInputError(msg)
        _app().check_inference(model, checked)
        checked["client_id"] = client_of(checked, request)
        if image:
            _renew(image, checked["client_id"])
        sent = json.dumps(checked)
        with _tidied(background_tasks), asked_by(gone):
            return infer.run_inference(background_tasks, model, image, session_id, sent, file, label, output)

    def save_label(
        background_tasks: BackgroundTasks,
        request: Request,
        image: str,
        params: str = Form("{}"),
        tag: str = "final",
        label: UploadFile = File(...),  # noqa: B008
        caller: User = annotator,
    ) -> dict:
        checked = parsed_params(params)
        checked_identifier(image, "image id")
        checked_identifier(tag or FINAL, "label tag")
        checked["client_id"] = client_of(checked, request)
        _renew(image, checked["client_id"])  # for a label that is refused, or is not the final one
        store = _store()
        if store is None:
            with _tidied(background_tasks):
                return datastore.save_label(background_tasks, image, json.dumps(checked), tag, label, caller.username)
        with _received(label) as path:
            version = store.save(image, path, tag or FINAL, checked, author=checked["client_id"])
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
        parsed_params(params)
        store = _store()
        if store is None or store.pacs_images is None:  # nothing can be added to a PACS, whatever its name
            # MONAI Label takes everything from the first dot for the suffix: case.1.2.nii.gz would become "case".
            image = checked_identifier(image or stem_of(file.filename or ""), "image id")
        with _tidied(background_tasks):
            return datastore.add_image(background_tasks, image, params, file, _name(request, caller))

    def next_sample(
        background_tasks: BackgroundTasks,
        strategy: str,
        request: Request,
        params: dict | None = None,
        caller: User = user,
    ) -> dict:
        checked = checked_params(params)
        store = _store()
        if store is None:
            return activelearning.sample(strategy, checked, caller.username)
        # Not by MONAI Label's function, which describes every image of the folder on the way.
        asked = {"strategy": strategy} | checked | {"client_id": client_of(checked, request)}
        logger.info("Active Learning Request: %s", asked)
        answer = _sample(store, _app().next_sample(asked))
        if answer and "label" not in answer:  # in a review there is a label already
            background_tasks.add_task(_app().prefetch, answer["id"], asked["client_id"])
        return answer

    def update_image_info(image: str, request: Request, info: str = Form("{}"), caller: User = annotator) -> None:
        datastore.update_image_info(image, json.dumps(parsed_object(info, "info")), _name(request, caller))

    def update_label_info(
        label: str, tag: str, request: Request, info: str = Form("{}"), caller: User = annotator
    ) -> None:
        datastore.update_label_info(label, tag, json.dumps(parsed_object(info, "info")), _name(request, caller))

    def start_training(
        model: str,
        request: Request,
        params: dict | None = None,
        run_sync: bool = False,
        enqueue: bool = False,
        _: User = admin,
    ) -> Any:
        checked = _signed(checked_params(params), request)
        _app().check_training(model, checked)
        start = partial(train.run_model, model, checked, run_sync, enqueue)
        return start() if run_sync or enqueue else started_alone("train", start)

    def start_all_trainings(
        request: Request, params: dict | None = None, run_sync: bool = False, _: User = admin
    ) -> Any:
        for model in _app().info()["trainers"]:
            _app().check_training(model, checked_params((params or {}).get(model)))
        start = partial(train.run, _signed(checked_params(params), request), run_sync)
        return start() if run_sync else started_alone("train", start)

    def start_scoring(
        method: str, request: Request, params: dict | None = None, run_sync: bool = False, _: User = annotator
    ) -> Any:
        checked = _signed(checked_params(params), request)
        _app().check_scoring(method)
        start = partial(scoring.run_method, method, checked, run_sync)
        return start() if run_sync else started_alone("scoring", start)

    def start_all_scorings(
        request: Request, params: dict | None = None, run_sync: bool = False, _: User = annotator
    ) -> Any:
        for method in _app().info()["scoring"]:
            checked_params((params or {}).get(method))
        return scoring.run(_signed(checked_params(params), request), run_sync)

    def start_batch(
        model: str,
        request: Request,
        images: batch_infer.BatchInferImageType = batch_infer.BatchInferImageType.IMAGES_ALL,
        params: dict | None = None,
        run_sync: bool = False,
        _: User = admin,
    ) -> Any:
        checked = _signed(checked_params(params), request)
        _app().check_inference(model, checked)
        start = partial(batch_infer.run, model, images, checked, run_sync)
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


@contextmanager
def _received(upload: UploadFile) -> Iterator[Path]:
    """An upload as a temporary file with the suffix of what was sent; MONAI Label's own loses dots in names."""
    name = Path(upload.filename or "").name
    suffix = name[len(stem_of(name)) :] or Path(name).suffix or ".nii.gz"
    with tempfile.NamedTemporaryFile(prefix="liverloop-", suffix=suffix[-20:]) as file:
        shutil.copyfileobj(upload.file, file)
        file.flush()
        yield Path(file.name)


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


def _check_session(session_id: str) -> None:
    checked_identifier(session_id, "session id")
    sessions = _app().sessions()
    if sessions is None or sessions.get_session(session_id) is None:
        msg = f"there is no session {session_id!r}; it may have expired, send the image again"
        raise NotFoundError(msg)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _is_skip(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and len(value) <= _LONGEST_REASON)


def _names_devices(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) for name in names)


# What MONAI Label reads from params on its own account, often after it answered.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "device": (_names_devices, "a device's name such as 'cpu' or 'cuda'"),
    "gpus": (lambda value: isinstance(value, str) and bool(_GPUS.fullmatch(value)), "'all' or numbers such as '0,1'"),
    "logging": (
        lambda value: isinstance(value, str) and value.upper() in logging.getLevelNamesMapping(),
        "a log level such as 'INFO'",
    ),
    "skip": (_is_skip, f"true, false or why, in at most {_LONGEST_REASON} characters"),
    "max_batch_size": (_is_count, "a number of images, 0 for all"),
    "max_workers": (_is_count, "a number of threads, 0 to choose by the cores"),
}
