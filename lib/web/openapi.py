"""`/openapi.json`: what this server answers, for programs that are made from it and for `/docs`.

FastAPI describes every route that was ever added, and where two have one address the last of them, though the first
answers. And it knows nothing of what stands around the server: logins, roles, limits.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

Address = tuple[str, str]  # method and path, such as ("GET", "/session/{session_id}")

_ERROR = "Error"
# Of every request that is not for everybody; a client has to expect them wherever it asks.
_ANYWHERE = {
    400: "A value, file or address that can't be used",
    401: "No login, or one that is not valid any more",
    403: "The user may not do this, or it is switched off",
    404: "There is no such thing",
    405: "Another method is needed here",
    409: "In use by others now",
    413: "More than the server takes",
    415: "A kind of file or body that is not taken here",
    422: "The request does not fit what is described here",
    429: "Too many of these at once; wait",
    502: "The PACS could not be reached or refused",
    503: "The server is stopping, overloaded, or can't reach its ledger; ask again",
    507: "The server's disk takes nothing more",
}
_WITHOUT_LOGIN = {401, 403}  # what those are never told who need no login
_FILE = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_JSON: dict[str, Any] = {"application/json": {"schema": {}}}
_RESULT = {"params": {"type": "string", "contentMediaType": "application/json"}, "image": {"type": "string"}}
# What comes in a format of its own, though its endpoint does not say so.
_CONTENT: dict[Address, Any] = {
    ("GET", "/datastore/image"): _FILE,
    ("GET", "/datastore/label"): _FILE,
    ("GET", "/datastore/dataset"): _FILE,
    ("GET", "/ledger/images/{image}/versions/{tag}/{number}"): _FILE,
    ("GET", "/logs/"): _FILE,
    ("GET", "/logs/gpu"): _FILE,
    ("GET", "/metrics"): {"text/plain": {"schema": {"type": "string"}}},
    ("GET", "/model/{model}"): _FILE,
    ("GET", "/models/{version}/export"): _FILE,
    ("GET", "/models/{version}/report"): {"text/html": {"schema": {"type": "string"}}},
    ("GET", "/session/{session_id}"): {**_JSON, **_FILE},
    # With output=json, with output=image, and with neither.
    ("POST", "/infer/{model}"): {
        **_JSON, **_FILE, "multipart/form-data": {"schema": {"type": "object", "properties": _RESULT}},
    },
}  # fmt: skip


def install_openapi(
    app: FastAPI, public: Iterable[Address] = (), off: Callable[[str, str], bool] | None = None
) -> None:
    """Let the server describe itself as it is.

    Args:
        app: the server; the description is made when it is asked for first, so routes may still be added.
        public: what is answered without a login.
        off: tells of a method and a path whether that is switched off; None: nothing is.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = described(app, frozenset(public), off or (lambda method, path: False))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def described(app: FastAPI, public: frozenset[Address], off: Callable[[str, str], bool]) -> dict[str, Any]:
    """The description of a server, see `install_openapi`."""
    reachable, summaries = _reachable(app)
    routes = [route for address, route in reachable.items() if not off(*address)]
    content = get_openapi(title=app.title, version=app.version, routes=routes)
    for path, operations in content["paths"].items():
        for method, operation in operations.items():
            address = (method.upper(), path)
            _correct(operation, address)
            operation["summary"] = summaries.get(address, operation["summary"])
            operation["responses"] = _with_errors(operation["responses"], address in public)
    schemas = content.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # of FastAPI's own answers, in place of which ours go out
        schemas.pop(name, None)
    schemas[_ERROR] = {
        "type": "object",
        "title": "Why a request was not done",
        "required": ["detail"],
        "properties": {"detail": {"type": "string", "title": "For people to read"}},
    }
    content["components"]["responses"] = {str(status): _error(words) for status, words in _ANYWHERE.items()}
    return content


def _reachable(app: FastAPI) -> tuple[dict[Address, RouteContext], dict[Address, str]]:
    """The routes that answer, of several with one method and path the first; and what others call the same thing."""
    found: dict[Address, RouteContext] = {}
    summaries = {}
    for route in iter_route_contexts(app.routes):
        if not isinstance(route.original_route, APIRoute):
            continue
        for method in route.methods or ():
            address = (method, str(route.path_format))
            if found.setdefault(address, route) is not route and route.summary:
                summaries[address] = route.summary
    return found, summaries


def _correct(operation: dict[str, Any], address: Address) -> None:
    # What MONAI Label's own login, which is never used, would take: a token has no place in an address.
    parameters = [one for one in operation.get("parameters", ()) if (one["in"], one["name"]) != ("query", "token")]
    operation.pop("parameters", None)
    if parameters:
        operation["parameters"] = parameters
    if address in _CONTENT:
        operation["responses"]["200"]["content"] = _CONTENT[address]


def _with_errors(responses: Mapping[str, Any], is_public: bool) -> dict[str, Any]:
    """Documented answers with the common errors; what an endpoint says of an error of its own stays."""
    own = {status: answer for status, answer in responses.items() if status not in {"404", "422"}}
    common = {
        str(status): {"$ref": f"#/components/responses/{status}"}
        for status in _ANYWHERE
        if not (is_public and status in _WITHOUT_LOGIN)
    }
    return {**common, **own}


def _error(words: str) -> dict[str, Any]:
    return {
        "description": words,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_ERROR}"}}},
    }
