"""What clients really send, mixed with what schemathesis makes up, so that many requests get past the first checks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.generation.feedback import FeedbackSources

from lib.web.guard.rows import Form, Json, Row
from lib.web.guard.table import TABLE

TINY = (32, 32, 8)
_MOSTLY = st.sampled_from([True, True, False])
_CLIENT = "user-1"
# Names of files as clients, and others, send them.
_FILE_NAMES = (
    *("case_90.nii.gz", "case.91.nii.gz", "image.nii", "label.nrrd", "scribbles.bin", "slice.dcm", "files.zip"),
    *("", "..", "../../up.nii.gz", "/etc/cron.d/x.nii.gz", "sitecustomize.py", "a" * 300 + ".nii.gz"),
    *("Ä\u202e.nii.gz", "nul\0.nii", "files.tar.gz"),
)
_NO_IDS = (
    "nobody",
    "..",
    "../studies/case_20",
    "case_20/../case_21",
    "/etc/passwd",
    ".",
    "~",
    "a" * 300,
    "case_20\0",
    "CON",
    "",
)
_BOTH = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
# The first values fit, where there are three or more.
_PARAMS: dict[str, Sequence[Any]] = {
    "again": [True, False, "x"],
    "bundle_path": ["/tmp"],
    "client_id": [_CLIENT, None, "", 5, "x" * 121],
    "device": ["cpu", ["cpu"], "cuda", [], 0],
    "early_stop_patience": [0, -1, 3, -2],
    "gpus": ["all", "0", "99,100", "x"],
    "image": ["case_20", "/etc/passwd"],
    "largest_liver": [True, False, "yes"],
    "label_info": [_BOTH, [{"name": "liver", "idx": 1}], None, [], {}],
    "label_prompt": [[1, 2], [], [1], ["x"]],
    "label_tag": ["final", "original", "second", "../x", "refused"],
    "labels": [["liver"], [], None, [1]],
    "logging": ["INFO", "ERROR", "DEBUG", "LOUD"],
    "looked_at": [[[0, 7]], [[1, 2], [4, 5]], None, [[7, 0]], [[0, 99]], "x"],
    "max_batch_size": [0, 1, 3, "all"],
    "max_epochs": [1, 2, 10_000, 0, 10**9, "1"],
    "max_workers": [0, 1, 2, -1, "two"],
    "min_tumor_mm3": [0, 10.5, 1e3, -3],
    "name": ["run", "other", "third", "../../x", ""],
    "next": ["/ohif/", "/", "", "//elsewhere.example"],
    "number": [1, 2, 3, 0, 2**31],
    "planes": ["images", "seg.nrrd", None, "x"],
    "pretrained": [True, False, 1],
    "reason": ["looked at it", "two\nlines", "ä", " ", "x" * 501],
    "result_compress": [True, False, "no"],
    "result_dtype": ["uint8", "", None, "object"],
    "result_extension": [".nrrd", ".nii.gz", ".seg.nrrd", ".py", "/../x"],
    "result_write_to_file": [True, False, "x"],
    "resume": [True, False, "x"],
    "save_label": [True, False, "x"],
    "skip": [True, "too blurred", False, "x" * 501, 1],
    "start": ["published", "starter", "nobody"],
    "tag": ["final", "original", "second", "../x"],
    "train_batch_size": [1, 4, 2, 0],
    "train_ds": [[{"image": "/etc/passwd", "label": "/etc/passwd"}]],
    "val_split": [0, 0.5, 0.2, 1, "x"],
    "y": ["final", "original", "second", "../x"],
    "y_pred": ["original", "final", "second", "../x"],
}  # fmt: skip


@dataclass
class Known:
    """Values that exist, by the name of the parameter that they are for.

    Args:
        images: ids of images that nobody may remove or leave out while others ask for them.
        spare: ids of images that anything may happen to.
        uploads: contents of files.
    """

    images: Sequence[str]
    spare: Sequence[str]
    uploads: Sequence[bytes]
    by_name: dict[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tags = ["final", "original", "second", "../final", "refused", ""]
        self.by_name |= {
            "image": [*self.images, *_NO_IDS],
            "label": [*self.images, *_NO_IDS],
            "id": [*self.spare, "nobody", ".."],
            "tag": tags,
            "model": ["liver_tumor", "liver_tumor", "nobody", "../liver_tumor"],
            "strategy": ["random", "first", "uncertainty", "review", "nobody"],
            "method": ["dice", "uncertainty", "nobody"],
            "version": ["starter", "published", "nobody", ".."],
            "session_id": ["nobody", ".."],
            "number": [1, 2, 2**31 - 1],
            "first": [1, "starter"],
            "second": [2, "published"],
            "client_id": [_CLIENT, "x" * 121, ""],
            "output": ["json", "image", "all", "dicom_seg", "stats", "train"],
            "format": ["torchscript", "bundle", "onnx"],
            "images": ["all", "unlabeled", "labeled"],
            "check_sum": ["SHA256:00", "sha256:", "MD5:1", ":", "x:y:z"],
            "reason": ["looked at it", " ", "x" * 501],
        }

    def of(self, name: str, label: str) -> Sequence[Any]:
        """The values for a parameter of an operation; empty: none is known."""
        if name == "image" and label.endswith("/exclude"):
            return [*self.spare, "nobody"]
        if name == "image" and label in {"PUT /datastore/image", "PUT /datastore/"}:
            return ["new_1", "new.2", "new-3", *self.spare, *_NO_IDS]
        return self.by_name.get(name, ())


@dataclass
class Sent:
    """A request that is to be sent.

    Args:
        case: what schemathesis knows of it.
        file_names: for the files in it, one after the other.
    """

    case: Case
    file_names: Sequence[str]

    def __repr__(self) -> str:
        return f"{self.case.operation.label} {self.case.path_parameters} {self.case.query} {str(self.case.body)[:500]}"

    def options(self, url: str) -> dict[str, Any]:
        """For `requests.request`."""
        options = self.case.as_transport_kwargs(url)
        if options.get("files"):
            names = iter(self.file_names)
            options["files"] = [
                (name, part if part[0] is None else (next(names, part[0]), *part[1:]))
                for name, part in options["files"]
            ]
        return options


def requests_for(operation: Any, known: Known) -> st.SearchStrategy[Sent]:
    """What is sent to an operation: two of three fit its description, and half of those values are real ones."""
    # Without the texts of this program, which schemathesis would mix in: a server's log is looked through for words.
    only_schema = FeedbackSources()
    fitting = operation.as_strategy(generation_mode=GenerationMode.POSITIVE, feedback=only_schema)
    names = _names_in_body(operation)
    kinds = [fitting]
    if operation.query or operation.path_parameters or operation.body:
        kinds = [fitting, fitting, operation.as_strategy(generation_mode=GenerationMode.NEGATIVE, feedback=only_schema)]

    @st.composite
    def made(draw: st.DrawFn) -> Sent:
        case = draw(st.sampled_from(kinds).flatmap(lambda kind: kind))
        for name in list(case.path_parameters or {}):
            _replace(draw, case.path_parameters, name, known.of(name, operation.label))
        for parameter in operation.query:
            _replace(draw, case.query, parameter.name, known.of(parameter.name, operation.label))
        if isinstance(case.body, dict):
            if "multipart" in (case.media_type or ""):
                _fill_form(draw, case.body, names, known)
            else:
                case.body = draw(_params(names)) if draw(_MOSTLY) else case.body | draw(_params(names))
        return Sent(case, draw(st.lists(st.sampled_from(_FILE_NAMES), max_size=4)))

    return made()


def _replace(draw: st.DrawFn, container: Any, name: str, values: Sequence[Any]) -> None:
    if values and draw(_MOSTLY):
        container[name] = draw(st.sampled_from(values))


def _names_in_body(operation: Any) -> list[str]:
    """The names of all that may stand in a body's JSON, by the table."""
    method, _, path = operation.label.partition(" ")
    row = next((one for one in TABLE if (one.method, one.path.replace(":path}", "}")) == (method, path)), None)
    if not isinstance(row, Row) or not isinstance(row.body, Form | Json):
        return []
    schema = (row.body.fields if isinstance(row.body, Form) else row.body.model).model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for part in parts for name in part.get("properties", {})} & _PARAMS.keys())


def _params(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """A JSON object, mostly of names that are known there and values that fit."""

    @st.composite
    def made(draw: st.DrawFn) -> dict[str, Any]:
        fits = draw(_MOSTLY)
        some = names if names and fits else sorted(_PARAMS)
        chosen = draw(st.lists(st.sampled_from(some), max_size=3, unique=True))
        return {
            name: draw(st.sampled_from(_PARAMS[name][:3] if fits and draw(_MOSTLY) else _PARAMS[name]))
            for name in chosen
        }

    return made()


def _fill_form(draw: st.DrawFn, body: dict[str, Any], names: list[str], known: Known) -> None:
    for name in ("params", "info"):
        if name in body and draw(_MOSTLY):
            body[name] = json.dumps(draw(_params(names)))
    files = st.sampled_from(known.uploads)
    for name in ("file", "label"):
        if name in body and draw(_MOSTLY):
            body[name] = draw(files)
    if isinstance(body.get("files"), list) and draw(_MOSTLY):
        body["files"] = draw(st.lists(files, min_size=1, max_size=3))
