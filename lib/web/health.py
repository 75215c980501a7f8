"""`/healthz` and `/readyz`, for whoever watches the server or sends requests to it."""

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from lib.errors import LiverLoopError


def install_health(app: FastAPI, check: Callable[[], object]) -> None:
    """Add the endpoints.

    Args:
        app: the server.
        check: raises what is in the way of answering requests.
    """

    @app.get("/healthz", tags=["Health"])
    async def healthz() -> dict[str, str]:
        """Whether the process is alive; looks at nothing else."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["Health"])
    def readyz() -> JSONResponse:
        """Whether it can answer requests: the model is loaded and the ledger answers. 503 with the reason if not."""
        try:
            check()
        except LiverLoopError as error:
            return JSONResponse({"status": "not ready", "reason": str(error)}, status_code=503)
        return JSONResponse({"status": "ready"})
