"""What clients really send, mixed with what schemathesis makes up, so that many requests get past the first checks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.generation.feedback import FeedbackSources

from lib.web.guard.rows import Form, Json, Row
from lib.web.guard.table import TABLE

TINY = (32, 32, 8)
_CLIENT = "user-1"
# Names of files as clients, and others, send them.
_FILE_NAMES = (
    *("case_90.nii.gz", "case.91.nii.gz", "image.nii", "label.nrrd", "scribbles.bin", "slice.dcm", "files.zip"),
    *("", "..", "../../up.nii.gz", "/etc/cron.d/x.nii.gz", "sitecustomize.py", "a" * 300 + ".nii.gz"),
    *("Ä\u202e.nii.gz", "nul\0.nii", "files.tar.gz"),
)
_NO_IDS = (
    *("nobody", "..", "../studies/case_20", "case_20/../case_21", "/etc/passwd", ".", "~", "a" * 300, "case_20\0"),
    *("CON", ""),
)
# The first of `schema_files.tiny_files` that fit.
_FILES: dict[str, dict[str, Sequence[int]]] = {
    "PUT /datastore/": {"file": [0, 1, 2]},
    "PUT /datastore/image": {"file": [0, 1, 2]},
    "PUT /datastore/label": {"label": [3, 4]},
    "PUT /session/": {"files": [0, 1, 2]},
    "POST /infer/{model}": {"file": [0, 1, 2]},
}
# What makes a request last as long as a training, or as PyTorch takes to write ONNX.
_TOO_LONG = {"run_sync": False, "format": "torchscript"}
_NEEDED = ("reason", "number")
_BOTH = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
# The first two values fit.
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
    "label_tag": ["original", "second", "final", "../x", "refused"],
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


# By the name of a parameter of an address: what is there or fits, and what is not there or doesn't.
_VALUES: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
    "all": ([True, False], ["x"]),
    "check_sum": (["SHA256:" + "0" * 64, "0" * 64], ["sha256:", "MD5:1", ":", "x:y:z"]),
    "client_id": ([_CLIENT], ["x" * 121, ""]),
    "first": ([1], [0, 7, "starter"]),
    "format": (["torchscript", "bundle"], ["keras"]),
    "images": (["all", "unlabeled", "labeled"], ["some"]),
    "limit": ([1, 100], [0, 10**9]),
    "method": (["dice", "scores"], ["nobody"]),
    "model": (["liver_tumor"], ["nobody", "../liver_tumor"]),
    "next": (["/ohif/", "/"], ["//elsewhere.example", "x"]),
    "number": ([1], [2, 0, 2**31 - 1, 2**63]),
    "second": ([1, 2], [0, "published"]),
    "strategy": (["random", "first", "hybrid", "review"], ["nobody"]),
    "tag": (["final"], ["original", "second", "../final", "refused", ""]),
    "version": (["starter", "published"], ["nobody", ".."]),
}


class Known:
    """What the server has by now.

    Args:
        images: ids of images that nobody may remove or leave out while others ask for them.
        spare: ids of images that anything may happen to.
        uploads: contents of files.
    """

    def __init__(self, images: Sequence[str], spare: Sequence[str], uploads: Sequence[bytes]) -> None:
        self.uploads = uploads
        self.sessions: list[str] = []
        self._images, self._spare = images, spare

    def of(self, name: str, label: str) -> tuple[Sequence[Any], Sequence[Any]]:
        """The values that do and those that don't for a parameter of an operation; both empty: nothing is known."""
        if name == "session_id":
            return self.sessions, ["nobody", "..", "0" * 36]
        if name == "id" or (name == "image" and label.endswith("/exclude")):
            return self._spare, ["nobody", ".."]
        if name == "image" and label in {"PUT /datastore/image", "PUT /datastore/"}:
            return ["new_1", "new.2", "new-3", *self._spare], _NO_IDS
        if name == "image" and label == "PUT /datastore/label":
            return self._images[:1], _NO_IDS
        if name in {"image", "label"}:
            return self._images, _NO_IDS
        if name in {"first", "second"} and "/models" in label:
            return _VALUES["version"]
        if name == "output":
            infer = ["json", "image", "all"]
            return (infer, ["dicom_seg"]) if "infer" in label else (["stats", "train", "all"], infer)
        return _VALUES.get(name, ((), ()))


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

    @property
    def is_its_own(self) -> bool:
        """Whether it is one of its operation; clients take `..` out of an address, which is another one then."""
        return not {".", ".."} & {*(self.case.path_parameters or {}).values()}

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
    """What is sent to an operation: half as clients do, half with anything anywhere, fitting its description or not."""
    # Without the texts of this program, which schemathesis would mix in: a server's log is looked through for words.
    only_schema = FeedbackSources()
    fitting = operation.as_strategy(generation_mode=GenerationMode.POSITIVE, feedback=only_schema)
    names = _names_in_body(operation)
    any_kind = [fitting]
    if operation.query or operation.path_parameters or operation.body:
        unfit = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE, feedback=only_schema)
        any_kind = [fitting, unfit]

    @st.composite
    def made(draw: st.DrawFn) -> Sent:
        is_honest = draw(st.booleans())
        case = draw(fitting if is_honest else st.sampled_from(any_kind).flatmap(lambda kind: kind))
        for name in list(case.path_parameters or {}):
            _replace(draw, case.path_parameters, name, known.of(name, operation.label), is_honest)
        for parameter in operation.query:
            if parameter.is_required or draw(st.booleans()):
                _replace(draw, case.query, parameter.name, known.of(parameter.name, operation.label), is_honest)
            elif is_honest:
                case.query.pop(parameter.name, None)
        for name, instead in _TOO_LONG.items():
            if name in (case.query or {}):
                case.query[name] = instead if name != "format" or case.query[name] == "onnx" else case.query[name]
        if case.media_type and is_honest and not isinstance(case.body, dict):
            case.body = {}
        if isinstance(case.body, dict):
            if "multipart" in (case.media_type or ""):
                _fill_form(draw, operation, case.body, names, known, is_honest)
            else:
                ours = draw(_params(names, is_honest))
                case.body = ours if is_honest else case.body | ours
        few = _FILE_NAMES[:3] if is_honest else _FILE_NAMES
        return Sent(case, draw(st.lists(st.sampled_from(few), min_size=3, max_size=3)))

    return made()


def _replace(
    draw: st.DrawFn, container: Any, name: str, values: tuple[Sequence[Any], Sequence[Any]], is_honest: bool
) -> None:
    fit, unfit = values
    if is_honest and fit:
        container[name] = draw(st.sampled_from(fit))
    elif (fit or unfit) and not is_honest and draw(st.booleans()):
        container[name] = draw(st.sampled_from([*fit, *unfit]))


def _names_in_body(operation: Any) -> list[str]:
    """The names of all that may stand in a body's JSON, by the table."""
    method, _, path = operation.label.partition(" ")
    row = next((one for one in TABLE if (one.method, one.path.replace(":path}", "}")) == (method, path)), None)
    if not isinstance(row, Row) or not isinstance(row.body, Form | Json):
        return []
    schema = (row.body.fields if isinstance(row.body, Form) else row.body.model).model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for part in parts for name in part.get("properties", {})} & _PARAMS.keys())


def _params(names: list[str], is_honest: bool) -> st.SearchStrategy[dict[str, Any]]:
    """A JSON object; an honest one has names that are known there and values that fit, a few needed ones always."""

    @st.composite
    def made(draw: st.DrawFn) -> dict[str, Any]:
        some = names if is_honest or (names and draw(st.booleans())) else sorted(_PARAMS)
        chosen = draw(st.lists(st.sampled_from(some), max_size=3, unique=True)) if some else []
        needed = [name for name in _NEEDED if name in names and is_honest]
        return {
            name: draw(st.sampled_from(_PARAMS[name][:2] if is_honest else _PARAMS[name]))
            for name in dict.fromkeys([*chosen, *needed])
        }

    return made()


def _fill_form(
    draw: st.DrawFn, operation: Any, body: dict[str, Any], names: list[str], known: Known, is_honest: bool
) -> None:
    for name in ("params", "info"):
        if is_honest or (name in body and draw(st.booleans())):
            body[name] = json.dumps(draw(_params(names, is_honest)))
    wanted = _FILES.get(operation.label, {})
    if is_honest:
        known_names = {"params", "info", *wanted}
        for name in [
            one for one in body if one not in known_names or (one == "info" and "/info" not in operation.path)
        ]:
            del body[name]
        if "params" in body and ("/info" in operation.path or "session" in operation.path):
            del body["params"]
    for name, some in wanted.items():
        if (is_honest and "infer" not in operation.path) or draw(st.booleans()):
            content = st.sampled_from([known.uploads[index] for index in some] if is_honest else known.uploads)
            body[name] = draw(st.lists(content, min_size=1, max_size=3)) if name == "files" else draw(content)
