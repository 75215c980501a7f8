"""A training, scoring or batch that somebody stops is not taken for an interrupted one by a server started later."""

from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from monailabel.config import settings
from monailabel.endpoints import batch_infer, scoring, train
from monailabel.endpoints.user.auth import RBAC, User

from lib.web.job_records import BATCH, SCORING, TRAIN, JobRecords
from lib.web.jobs import stop_job


def install_jobs(app: FastAPI, records: JobRecords) -> None:
    """Put our endpoints before MONAI Label's."""
    annotator = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

    def stop_training(_: User = admin) -> Any:
        task = stop_job(TRAIN, train.stop, records)
        # 3D Slicer takes the last of the details, and a training says nothing in its first seconds.
        return {**task, "details": list(task.get("details") or ["stopped at its beginning"])} if task else task

    def stop_scoring(_: User = annotator) -> Any:
        return stop_job(SCORING, scoring.stop, records)

    def stop_batch(_: User = admin) -> Any:
        return stop_job(BATCH, batch_infer.stop, records)

    ours = APIRouter(prefix=settings.MONAI_LABEL_API_STR)
    ours.delete("/train/", tags=["Train"])(stop_training)
    ours.delete("/scoring/", tags=["Scoring"])(stop_scoring)
    ours.delete("/batch/infer", tags=["Infer"])(stop_batch)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())  # the first route that matches answers
