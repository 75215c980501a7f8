"""`/openapi.json`: what this server answers, for programs that are made from it and for `/docs`.

FastAPI describes every route that was ever added, and where two have one address the last of them, though the first
answers. And it knows nothing of what stands around the server: logins, roles, and what a request may carry.
"""

import json
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic import BaseModel

from lib.web.guard.callers import COOKIE
from lib.web.guard.rows import Form, Json, Off, Row

_Address = tuple[str, str]  # method and path, such as ("GET", "/session/{session_id}")
_Object = dict[str, Any]

_SCHEMAS, _RESPONSES = "#/components/schemas/", "#/components/responses/"
_ERROR = "Error"
# A client has to expect these wherever it asks.
_ERRORS = {
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
_OF_LOGIN = {401, 403}
_PAGES = {("POST", "/login")}  # whose errors are pages
_BINARY = {"type": "string", "format": "binary"}
_FILE: _Object = {"*/*": {"schema": _BINARY}}
_JSON: _Object = {"application/json": {"schema": {}}}
_PAGE: _Object = {"content": {**_JSON, "text/html": {"schema": {"type": "string"}}}}
_RESULT = {"params": {"type": "string", "contentMediaType": "application/json"}, "image": _BINARY}
# What comes in a format of its own, though its endpoint does not say so.
_CONTENT: dict[_Address, _Object] = {
    ("GET", "/datastore/dataset"): _FILE,
    ("GET", "/datastore/image"): _FILE,
    ("GET", "/datastore/label"): _FILE,
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


def install_openapi(app: FastAPI, table: Iterable[Row | Off] = ()) -> None:
    """Let the server describe itself as it is.

    Args:
        app: the server; the description is made when it is asked for first, so routes may still be added.
        table: what is let through to it, to whom and with what; empty: everything, to everybody.
    """

    def openapi() -> _Object:
        if app.openapi_schema is None:
            app.openapi_schema = described(app, table)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def described(app: FastAPI, table: Iterable[Row | Off]) -> _Object:
    """The description of a server, see `install_openapi`."""
    rows = {(row.method, row.path): row for row in table}
    routes, summaries = _reachable(app)
    if rows:
        routes = {address: route for address, route in routes.items() if isinstance(rows.get(address), Row)}
    content = get_openapi(title=app.title, version=app.version, routes=list(routes.values()))
    schemas = content.setdefault("components", {}).setdefault("schemas", {})
    for path, operations in content["paths"].items():
        for method, operation in operations.items():
            address = (method.upper(), path)
            operation["summary"] = summaries.get(address, operation["summary"])
            if address in _CONTENT:
                operation["responses"]["200"]["content"] = _CONTENT[address]
            row = rows.get(address)
            logs_in = isinstance(row, Row) and (row.role is not None or row.body is not None)
            _describe_errors(operation, logs_in=logs_in, as_pages=address in _PAGES)
            _drop_token(operation)
            if isinstance(row, Row):
                _describe_access(operation, row)
                _describe_carried(operation, row, schemas)
    schemas[_ERROR] = {
        "type": "object",
        "title": "Why a request was not done",
        "required": ["detail"],
        "properties": {"detail": {"type": "string", "title": "For people to read"}},
    }
    content["components"]["responses"] = {str(status): _error(words) for status, words in _ERRORS.items()}
    if rows:
        content["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
        }
    _drop_unused(content, schemas)
    return content


def _reachable(app: FastAPI) -> tuple[dict[_Address, RouteContext], dict[_Address, str]]:
    """The routes that answer, of several with one method and path the first; and what others call the same thing."""
    found: dict[_Address, RouteContext] = {}
    summaries = {}
    for route in iter_route_contexts(app.routes):
        if not isinstance(route.original_route, APIRoute):
            continue
        for method in route.methods or ():
            address = (method, str(route.path_format))
            if found.setdefault(address, route) is not route and route.summary:
                summaries[address] = route.summary
    return found, summaries


def _describe_errors(operation: _Object, *, logs_in: bool, as_pages: bool) -> None:
    """Common errors in place of what FastAPI and MONAI Label say of theirs; other answers stay."""
    own = {status: answer for status, answer in operation["responses"].items() if status not in {"404", "422"}}
    common = {
        str(status): _error(words) | _PAGE if as_pages else {"$ref": f"{_RESPONSES}{status}"}
        for status, words in _ERRORS.items()
        if logs_in or status not in _OF_LOGIN
    }
    operation["responses"] = {**common, **own}


def _drop_token(operation: _Object) -> None:
    """What MONAI Label's own login, which is never used, would take: a token has no place in an address."""
    parameters = [one for one in operation.pop("parameters", ()) if (one["in"], one["name"]) != ("query", "token")]
    if parameters:
        operation["parameters"] = parameters


def _describe_access(operation: _Object, row: Row) -> None:
    if row.role is None:
        operation["security"] = []
        return
    operation["security"] = [{"token": []}, {"cookie": []}]
    needed = f"Needs the role {row.role} or a higher one, where people log in."
    operation["description"] = "\n\n".join(filter(None, [operation.get("description"), needed]))


def _describe_carried(operation: _Object, row: Row, schemas: _Object) -> None:
    """What a request may carry, by its row: that is checked first, and is stricter than the endpoint."""
    if row.query is not None:
        described = _schema(row.query, schemas)
        required = described.get("required", ())
        parameters = [one for one in operation.pop("parameters", ()) if one["in"] != "query"]
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in described.get("properties", {}).items()
        ]
        if parameters:
            operation["parameters"] = parameters
    was_required = operation.get("requestBody", {}).get("required", False)
    if isinstance(row.body, Json):
        content = {"application/json": {"schema": _schema(row.body.model, schemas)}}
        operation["requestBody"] = {"content": content, "required": was_required}
    elif isinstance(row.body, Form):
        form = _schema(row.body.fields, schemas)
        several = {"type": "array", "items": _BINARY, "maxItems": row.body.most_files}
        names = row.body.files
        is_one = row.body.most_files == len(names)
        form["properties"] = form.get("properties", {}) | dict.fromkeys(names, _BINARY if is_one else several)
        if was_required and len(names) == 1:
            form["required"] = [*form.get("required", ()), *names]
        kind = "multipart/form-data" if names else "application/x-www-form-urlencoded"
        operation["requestBody"] = {"content": {kind: {"schema": form}}, "required": was_required}
    elif row.body is None:
        operation.pop("requestBody", None)


def _schema(model: type[BaseModel], schemas: _Object) -> _Object:
    """The schema of what a request carries; those that it refers to are added to `schemas`."""
    schema = model.model_json_schema(ref_template=_SCHEMAS + "{model}")
    schemas.update(schema.pop("$defs", {}))
    return schema


def _error(words: str) -> _Object:
    return {"description": words, "content": {"application/json": {"schema": {"$ref": _SCHEMAS + _ERROR}}}}


def _drop_unused(content: _Object, schemas: _Object) -> None:
    """Leave out what only endpoints refer to that were described otherwise."""
    while True:
        text = json.dumps(content)
        unused = [name for name in schemas if f'"{_SCHEMAS}{name}"' not in text]
        if not unused:
            return
        for name in unused:
            del schemas[name]
