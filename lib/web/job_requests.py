"""Trainings, scorings and batches, as clients ask for them and stop them.

One that somebody stops is not taken for an interrupted one by a server started later.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from monailabel.config import settings
from monailabel.endpoints import batch_infer, scoring, train
from monailabel.endpoints.user.auth import RBAC, User

from lib.web.job_details import told
from lib.web.job_records import BATCH, SCORING, TRAIN, JobRecords
from lib.web.jobs import stop_job


def install_jobs(app: FastAPI, records: JobRecords, folders: Mapping[Path, str]) -> None:
    """Put our endpoints before MONAI Label's.

    Args:
        app: the server.
        records: of the app folder.
        folders: of the server, each with what stands for it in an answer.
    """
    user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

    def stop_training(_: User = admin) -> Any:
        task = stop_job(TRAIN, train.stop, records)
        # 3D Slicer takes the last of the details, and a training says nothing in its first seconds.
        return shown({**task, "details": task.get("details") or ["stopped at its beginning"]}) if task else task

    def stop_scoring(_: User = annotator) -> Any:
        return shown(stop_job(SCORING, scoring.stop, records))

    def stop_batch(_: User = admin) -> Any:
        return shown(stop_job(BATCH, batch_infer.stop, records))

    def shown(tasks: Any) -> Any:
        if isinstance(tasks, list):
            return [shown(task) for task in tasks]
        return told(tasks, folders) if isinstance(tasks, dict) else tasks

    def status_of(method: Any) -> Callable[..., Any]:
        async def status(all: bool = False, check_if_running: bool = False, _: User = user) -> Any:
            return shown(method.status(all, check_if_running))

        return status

    ours = APIRouter(prefix=settings.MONAI_LABEL_API_STR)
    ours.get("/train/", tags=["Train"])(status_of(train))
    ours.get("/scoring/", tags=["Scoring"])(status_of(scoring))
    ours.get("/batch/infer", tags=["Infer"])(status_of(batch_infer))
    ours.delete("/train/", tags=["Train"])(stop_training)
    ours.delete("/scoring/", tags=["Scoring"])(stop_scoring)
    ours.delete("/batch/infer", tags=["Infer"])(stop_batch)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())  # the first route that matches answers
