"""What a row of the table of requests says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import BaseModel
from starlette.routing import compile_path

from lib.access.roles import Role
from lib.uploads import Kind

KILOBYTE = 1024


@dataclass(frozen=True)
class Json:
    """A JSON body; none at all counts as none given."""

    model: type[BaseModel]
    most_bytes: int = 256 * KILOBYTE


@dataclass(frozen=True)
class Form:
    """A form, `application/x-www-form-urlencoded` or, the only way for files, `multipart/form-data`.

    Args:
        fields: what it may hold beside files.
        files: for the name of each file what its content may be.
        most_bytes: of one field that is no file; files are limited by `limits.upload_mb`.
        most_files: in all.
        finds_type: a body that begins as `multipart/form-data` does is taken as such, whatever the client calls it; see
            `lib.web.guard.mistyped`.
    """

    fields: type[BaseModel]
    files: Mapping[str, frozenset[Kind]] = field(default_factory=dict)
    most_bytes: int = 256 * KILOBYTE
    most_files: int = 1
    finds_type: bool = False


@dataclass(frozen=True)
class Passed:
    """A body that the endpoint reads as it comes and checks itself, of at most `limits.upload_mb`."""


@dataclass(frozen=True)
class Row:
    """One kind of request that is answered.

    Args:
        method: of HTTP.
        path: a template as Starlette writes them, such as `/infer/{model}`.
        role: what a caller must be at least; None: anybody, without login.
        query: what may stand after the question mark; None: the endpoint checks it itself.
        body: what the request may carry; None: nothing.
        is_watched: also for whoever watches the server, from `access.metrics_from`, without login.
        noted: the kind of event by which the ledger remembers who asked for it; empty: the endpoint sees to that, or
            nothing changes.
    """

    method: str
    path: str
    role: Role | None
    query: type[BaseModel] | None
    body: Json | Form | Passed | None = None
    is_watched: bool = False
    noted: str = ""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches paths of this row; its groups are the template's values."""
        return compile_path(self.path)[0]


@dataclass(frozen=True)
class Off:
    """A kind of request that MONAI Label would answer and that is switched off.

    Args:
        method: of HTTP.
        path: a template.
        why: what to do instead, for people.
    """

    method: str
    path: str
    why: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """As of a row."""
        return compile_path(self.path)[0]
