"""Bodies that stream through, cut at every place, and all that is refused in them."""

import asyncio
import gzip
import itertools
import json
import random

import nibabel as nib
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from urllib3 import encode_multipart_formdata

from lib.access.roles import Role
from lib.errors import BadInputError
from lib.limits import MEGABYTE
from lib.uploads import Kind
from lib.web.guard.bodies import CheckedBody, TooLargeError, WrongTypeError
from lib.web.guard.rows import Form, Json, Passed, Row

NIFTI = gzip.compress(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)).to_bytes())
NRRD = b"NRRD0004\ntype: uint8\ndimension: 1\nsizes: 9\nencoding: raw\n\n" + bytes(9)


class Fields(BaseModel):
    """What the forms here may hold."""

    model_config = ConfigDict(extra="forbid")
    params: str = Field(default="", max_length=1000)


def row(body):
    return Row("POST", "/x", Role.ANNOTATOR, query=None, body=body)


LABEL = Form(Fields, {"label": frozenset({Kind.NIFTI, Kind.NRRD})})


def through(body, content, content_type, *, length="right", most=MEGABYTE, cuts=()):
    """What an endpoint gets to read of this body, cut at these places."""
    places = [0, *sorted(cuts), len(content)]
    parts = [content[start:end] for start, end in itertools.pairwise(places)]
    messages = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def read():
        announced = len(content) if length == "right" else length
        checked = CheckedBody(row(body), content_type, announced, most, receive)
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())]}
        request = Request(scope, checked.receive)
        try:
            if "form" in content_type:
                async with request.form() as form:
                    return {
                        name: value if isinstance(value, str) else await value.read()
                        for name, value in form.multi_items()
                    }
            return await request.body()
        except Exception as error:
            raise checked.refusal or error from None

    return asyncio.run(read())


def form_of(*fields):
    """A multipart body and its type; the boundary is fixed."""
    return encode_multipart_formdata(list(fields), boundary="limit-limit")


@pytest.mark.parametrize("label", [NIFTI, NRRD], ids=["NIfTI", "NRRD"])
def test_a_form_reaches_the_endpoint_whole_wherever_it_is_cut(label):
    content, content_type = form_of(("params", '{"a": 1}'), ("label", ("any name", label)))
    generator = random.Random(5)
    for _ in range(40):
        cuts = generator.sample(range(len(content)), 7)
        got = through(LABEL, content, content_type, cuts=cuts)
        assert got == {"params": '{"a": 1}', "label": label}
    assert through(LABEL, content, content_type, length=None)["label"] == label


def test_a_large_file_passes_in_pieces():
    label = NRRD + bytes(3 * MEGABYTE)
    content, content_type = form_of(("label", ("x.nrrd", label)))
    cuts = range(65536, len(content), 65536)
    assert through(LABEL, content, content_type, most=4 * MEGABYTE, cuts=cuts)["label"] == label


def test_a_form_without_files_comes_in_either_type():
    assert through(LABEL, b"params=%7B%7D", "application/x-www-form-urlencoded") == {"params": "{}"}
    assert through(LABEL, *form_of(("params", "{}"))) == {"params": "{}"}


def test_json_passes():
    content = json.dumps({"params": "ä"}).encode()
    assert through(Json(Fields), content, "application/json; charset=utf-8", cuts=[3, 9]) == content
    assert through(Json(Fields), b"", "") == b""
    assert through(Json(Fields), b"null", "application/json") == b"null"


def test_a_body_that_is_announced_and_never_comes():
    """MONAI Label's client keeps the length of its last body in the headers of all that it sends while logged in."""
    assert through(None, b"", "multipart/x; boundary=b", length=5000) == b""


def test_what_the_endpoint_checks_itself_is_limited_only():
    assert through(Passed(), b"anything", "multipart/related") == b"anything"
    with pytest.raises(TooLargeError):
        through(Passed(), bytes(MEGABYTE + 1), "application/dicom")


CASES = [
    (LABEL, b"{}", "application/json", WrongTypeError, "the request's Content-Type is 'application/json'; send "
     "multipart/form-data or application/x-www-form-urlencoded in UTF-8"),
    (Json(Fields), b"{}", "text/plain", WrongTypeError,
     "the request's Content-Type is 'text/plain'; send application/json in UTF-8"),
    # What the framework would read as other text than is checked here.
    (Form(Fields), "params=\u2001".encode(), "application/x-www-form-urlencoded", BadInputError,
     "the form can't be read; it holds more than 50 fields, or is not in UTF-8, encoded"),
    (LABEL, b"x", "multipart/form-data; boundary=x; charset=us-ascii", WrongTypeError,
     "the request's Content-Type is 'multipart/form-data; boundary=x; charset=us-ascii'; send multipart/form-data or "
     "application/x-www-form-urlencoded in UTF-8"),
    (Json(Fields), b"{}", "application/json; charset=utf-16", WrongTypeError,
     "the request's Content-Type is 'application/json; charset=utf-16'; send application/json in UTF-8"),
    (LABEL, b"x", "multipart/form-data", WrongTypeError,
     "the request's Content-Type names no boundary; send multipart/form-data as HTML forms do"),
    (Json(Fields), b"{", "application/json", BadInputError, "the request's body is not valid JSON"),
    (Json(Fields), b"[" * 100_000, "application/json", BadInputError, "the request's body is not valid JSON"),
    (Json(Fields), b"\xff", "application/json", BadInputError, "the request's body is not valid JSON"),
    (None, b"x", "text/plain", TooLargeError,
     "the request is larger than 0 bytes, the most that is taken here"),
    (Json(Fields, most_bytes=9), b"1234567890", "application/json", TooLargeError,
     "the request is larger than 9 bytes, the most that is taken here"),
    (LABEL, b"params=1&params=2", "application/x-www-form-urlencoded", BadInputError,
     "the form has 'params' more than once; send it once"),
    (LABEL, b"params=%ff", "application/x-www-form-urlencoded", BadInputError,
     "the form can't be read; it holds more than 50 fields, or is not in UTF-8, encoded"),
    (LABEL, b"&".join(b"a%d=1" % n for n in range(60)), "application/x-www-form-urlencoded", BadInputError,
     "the form can't be read; it holds more than 50 fields, or is not in UTF-8, encoded"),
    (LABEL, *form_of(("label", ("a.nii.gz", b"#!/bin/sh"))), BadInputError,
     "the file sent as 'label' is of no kind that is known here; send NIfTI or NRRD"),
    (LABEL, *form_of(("label", ("a.nii.gz", b""))), BadInputError,
     "the file sent as 'label' is empty; send NIfTI or NRRD"),
    (LABEL, *form_of(("label", ("a.nii.gz", bytes(128) + b"DICM" + bytes(9000)))), BadInputError,
     "the file sent as 'label' is DICOM; send NIfTI or NRRD"),
    (LABEL, *form_of(("image", ("a.nii.gz", NIFTI))), BadInputError,
     "the form has a file 'image'; expected label"),
    (Form(Fields), *form_of(("label", ("a", NIFTI))), BadInputError,
     "the form has a file 'label'; none is taken here"),
    (LABEL, *form_of(("label", ("a", NIFTI)), ("label", ("b", NIFTI))), BadInputError,
     "the form has more than 1 file"),
    (LABEL, *form_of(("params", "1"), ("params", "2")), BadInputError,
     "the form has 'params' more than once; send it once"),
    (LABEL, *form_of(*((f"a{n}", "1") for n in range(60))), BadInputError, "the form has more than 51 parts"),
    (LABEL, *form_of(("params", b"\xff")), BadInputError, "the form's 'params' is not in UTF-8"),
    (LABEL, form_of(("params", "1"))[0][:-4], form_of()[1], BadInputError,
     "the form breaks off before its end; send it again"),
    (LABEL, b"no boundary at all", form_of()[1], BadInputError,
     "the form can't be read: it is no valid multipart/form-data"),
    (LABEL, b"--limit-limit\r\nContent-Disposition: form-data\r\n\r\nx\r\n--limit-limit--\r\n", form_of()[1],
     BadInputError, "a part of the form has no name, or one that is not in UTF-8"),
    (LABEL, b"--limit-limit\r\nX: " + b"y" * 5000 + b"\r\n\r\n", form_of()[1],
     BadInputError, "the form can't be read: it is no valid multipart/form-data"),
    (Form(Fields, most_bytes=9), *form_of(("params", "1234567890")), TooLargeError,
     "the request is larger than 9 bytes, the most that is taken here"),
    (Form(Fields, LABEL.files, most_bytes=9), *form_of(("params", "1234567890")), TooLargeError,
     "a field of the form has more than 9 bytes"),
    (Form(Fields, LABEL.files, most_bytes=9), b"params=1234", "application/x-www-form-urlencoded", TooLargeError,
     "a field of the form has more than 9 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "content", "content_type", "kind", "reason"), CASES, ids=map(str, range(len(CASES))))
@pytest.mark.parametrize("is_announced", [True, False])
def test_refused(body, content, content_type, kind, reason, is_announced):
    with pytest.raises(kind) as caught:
        through(body, content, content_type, length="right" if is_announced else None)
    assert str(caught.value) == reason
    assert type(caught.value) is kind


def test_a_lie_about_the_length_does_not_help():
    content, content_type = form_of(("label", ("a", NIFTI + bytes(2 * MEGABYTE))))
    for length in (None, 10):
        with pytest.raises(TooLargeError, match="the request is larger than 1 MB"):
            through(LABEL, content, content_type, length=length)
    with pytest.raises(WrongTypeError):  # 0 announced, and yet something comes
        through(Json(Fields), b"{}", "text/plain", length=None)


def test_nothing_announced_and_something_sent():
    with pytest.raises(TooLargeError):
        through(None, b"x", "text/plain", length=0)
