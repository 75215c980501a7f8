"""The table of all that the server answers: to whom, and what a request may carry. Nothing else is answered."""

from collections.abc import Mapping

from lib.access.roles import Role
from lib.errors import ForbiddenError, NotFoundError
from lib.uploads import Kind
from lib.web.guard import carried_bodies as bodies
from lib.web.guard import carried_params as params
from lib.web.guard import carried_queries as queries
from lib.web.guard.rows import Form, Json, Off, Passed, Row

A, R, X = Role.ANNOTATOR, Role.REVIEWER, Role.ADMIN

_VOLUMES = frozenset({Kind.NIFTI, Kind.NRRD})

_SESSIONS = _VOLUMES | {Kind.DICOM, Kind.ARCHIVE}
_MOST_SESSION_FILES = 20_000  # DICOM files of a series; `limits.archive_files` may allow fewer

_NO_MODELS = "models are changed by trainings and scripts/models.py alone, which compare before they publish"
_NO_LOG = "whoever runs the server reads its log there, in logs/ of the app's folder"
_NO_DATASET = "get images and labels one by one, or all with scripts/ledger.py export on the server"
_NO_WSI = "this server segments CT and takes no whole-slide images; use /infer/{model}"

TABLE: tuple[Row | Off, ...] = (
    # Watching, logging in, pages
    Row("GET", "/healthz", None, queries.NoQuery),
    Row("GET", "/readyz", None, queries.NoQuery),
    Row("GET", "/metrics", A, queries.NoQuery, is_watched=True),
    Row("GET", "/favicon.ico", None, queries.NoQuery),
    Row("GET", "/auth/", None, queries.NoQuery),
    Row("POST", "/auth/token", None, queries.NoQuery, Form(bodies.TokenForm)),
    Row("GET", "/auth/token/valid", A, queries.NoQuery),
    Row("POST", "/auth/logout", A, queries.NoQuery, Json(params.Params)),
    Row("GET", "/login", None, queries.LoginQuery),
    Row("POST", "/login", None, queries.LoginQuery, Form(bodies.LoginForm)),
    Row("GET", "/logout", A, queries.NoQuery),
    Row("POST", "/logout", None, queries.NoQuery, Form(bodies.LogoutForm)),
    Row("GET", "/", A, queries.NoQuery),
    Row("GET", "/docs", A, queries.NoQuery),
    Row("GET", "/openapi.json", A, queries.NoQuery),
    Row("GET", "/info/", A, queries.NoQuery),
    # The viewer, and the PACS behind it
    Row("GET", "/ohif", A, query=None),
    Row("GET", "/ohif/{path:path}", A, query=None),
    Row("GET", "/static/{path:path}", A, query=None),
    Row("GET", "/proxy/dicom/{path:path}", A, query=None),
    Row("POST", "/proxy/dicom/{path:path}", A, query=None, body=Passed(), noted="sent to the PACS"),
    # What annotators do
    Row("POST", "/activelearning/review", R, queries.NoQuery, Json(params.NextSampleParams)),
    Row("POST", "/activelearning/{strategy}", A, queries.NoQuery, Json(params.NextSampleParams)),
    Off("POST", "/infer/wsi/{model}", _NO_WSI),
    Off("POST", "/infer/wsi_v2/{model}", _NO_WSI),
    Row("POST", "/infer/{model}", A, queries.InferQuery,
        Form(bodies.InferForm, {"file": _VOLUMES, "label": _VOLUMES}, most_files=2)),
    Row("GET", "/datastore/", A, queries.DatastoreQuery),
    Row("PUT", "/datastore/", A, queries.AddImageQuery, Form(bodies.AddImageForm, {"file": _VOLUMES})),
    Row("PUT", "/datastore/image", A, queries.AddImageQuery, Form(bodies.AddImageForm, {"file": _VOLUMES})),
    Row("DELETE", "/datastore/", X, queries.RemoveImageQuery),
    Row("DELETE", "/datastore/image", X, queries.RemoveImageQuery),
    Row("HEAD", "/datastore/image", A, queries.CheckImageQuery),
    Row("GET", "/datastore/image", A, queries.ImageQuery),
    Row("GET", "/datastore/image/info", A, queries.ImageQuery),
    Row("PUT", "/datastore/image/info", A, queries.ImageQuery, Form(bodies.InfoForm), noted="image described"),
    Row("PUT", "/datastore/label", A, queries.SaveLabelQuery, Form(bodies.SaveLabelForm, {"label": _VOLUMES})),
    Row("DELETE", "/datastore/label", X, queries.RemoveLabelQuery),
    Row("HEAD", "/datastore/label", A, queries.CheckLabelQuery),
    Row("GET", "/datastore/label", A, queries.LabelQuery),
    Row("GET", "/datastore/label/info", A, queries.LabelQuery),
    Row("PUT", "/datastore/label/info", A, queries.LabelQuery, Form(bodies.InfoForm), noted="label described"),
    Off("PUT", "/datastore/updatelabelinfo", "use PUT /datastore/label/info"),
    Off("GET", "/datastore/dataset", _NO_DATASET),
    Row("PUT", "/session/", A, queries.CreateSessionQuery,
        Form(bodies.CreateSessionForm, {"files": _SESSIONS}, most_files=_MOST_SESSION_FILES, finds_type=True)),
    Row("GET", "/session/{session_id}", A, queries.SessionQuery),
    Row("DELETE", "/session/{session_id}", A, queries.NoQuery),
    # Work in the background
    Row("GET", "/train/", A, queries.StatusQuery),
    Row("POST", "/train/", X, queries.RunQuery, Json(params.AllTrainParams), noted="training started"),
    Row("POST", "/train/{model}", X, queries.TrainQuery, Json(params.TrainParams), noted="training started"),
    Row("DELETE", "/train/", X, queries.NoQuery, noted="training stopped"),
    Row("GET", "/scoring/", A, queries.StatusQuery),
    Row("POST", "/scoring/", X, queries.RunQuery, Json(params.AllScoringParams), noted="scoring started"),
    Row("POST", "/scoring/{method}", X, queries.RunQuery, Json(params.ScoringParams), noted="scoring started"),
    Row("DELETE", "/scoring/", X, queries.NoQuery, noted="scoring stopped"),
    Row("GET", "/batch/infer", A, queries.StatusQuery),
    Row("POST", "/batch/infer/{model}", X, queries.BatchQuery, Json(params.BatchParams), noted="batch started"),
    Row("DELETE", "/batch/infer", X, queries.NoQuery, noted="batch stopped"),
    # Versions of models
    Row("GET", "/models", A, queries.NoQuery),
    Row("GET", "/models/compare", A, queries.CompareQuery),
    Row("GET", "/models/{version}", A, queries.NoQuery),
    Row("GET", "/models/{version}/report", R, queries.NoQuery),
    Row("GET", "/models/{version}/export", X, queries.ExportQuery, noted="model exported"),
    Row("POST", "/models/{version}/publish", X, queries.NoQuery, Json(bodies.Publication)),
    Off("GET", "/model/info/{model}", _NO_MODELS),
    Off("GET", "/model/{model}", _NO_MODELS),
    Off("PUT", "/model/{model}", _NO_MODELS),
    Off("DELETE", "/model/{model}", _NO_MODELS),
    # The ledger
    Row("GET", "/ledger/status", A, queries.NoQuery),
    Row("GET", "/ledger/images/{image}/versions", A, queries.HistoryQuery),
    Row("GET", "/ledger/images/{image}/versions/{tag}/{number}", A, queries.NoQuery),
    Row("GET", "/ledger/images/{image}/diff", R, queries.DiffQuery),
    Row("POST", "/ledger/images/{image}/restore", R, queries.NoQuery, Json(bodies.Restoration)),
    Row("POST", "/ledger/images/{image}/exclude", X, queries.NoQuery, Json(bodies.Decision)),
    Row("POST", "/ledger/images/{image}/include", X, queries.NoQuery, Json(bodies.Decision)),
    Row("GET", "/ledger/leases", A, queries.NoQuery),
    Row("DELETE", "/ledger/leases/{image}", A, queries.ReleaseQuery),  # of another's: reviewers, see the endpoint
    Row("GET", "/ledger/excluded", A, queries.NoQuery),
    Row("GET", "/ledger/unfit", A, queries.NoQuery),
    Row("GET", "/ledger/refused", R, queries.RefusedQuery),
    Row("GET", "/ledger/events", X, queries.EventsQuery),
    # What the server's own administrator does on the server
    Off("GET", "/logs/", _NO_LOG),
    Off("GET", "/logs/gpu", _NO_LOG),
    Off("POST", "/reload", "start the server anew instead"),
)  # fmt: skip

# HEAD is answered as GET by files and pages, and refused by the others themselves.
_BY_METHOD: Mapping[str, tuple[Row | Off, ...]] = {
    method: tuple(row for row in TABLE if row.method == method) for method in {row.method for row in TABLE}
}


class WrongMethodError(ForbiddenError):
    """The address is known, and not for this method.

    Args:
        message: for people.
        allowed: the methods that are known there.
    """

    def __init__(self, message: str, allowed: list[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


def find(method: str, path: str) -> tuple[Row, dict[str, str]]:
    """The row of a request and what its address holds.

    Raises:
        NotFoundError: no row has such an address.
        WrongMethodError: rows have it, but for other methods.
        ForbiddenError: it is switched off.
    """
    methods = (method, "GET") if method == "HEAD" else (method,)
    for known in (row for one in methods for row in _BY_METHOD.get(one, ())):
        match = known.pattern.fullmatch(path)
        if match is None:
            continue
        if isinstance(known, Off):
            msg = f"{known.method} {known.path} is switched off here: {known.why}"
            raise ForbiddenError(msg)
        return known, match.groupdict()
    allowed = sorted({row.method for row in TABLE if isinstance(row, Row) and row.pattern.fullmatch(path)})
    if allowed:
        msg = f"this address takes {', '.join(allowed)}, not {method[:10]}"
        raise WrongMethodError(msg, allowed)
    msg = f"there is nothing at {path[:80]!r} on this server"
    raise NotFoundError(msg)
