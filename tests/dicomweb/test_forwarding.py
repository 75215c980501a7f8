"""What of a viewer's request is sent on, and what comes back; over HTTP in tests/web/test_pacs_proxy.py."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.dicomweb.forwarding import _replaced, checked_path, stored_segs
from lib.errors import BadInputError

SEG, CT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("studies", "studies"),
        ("studies/", "studies"),
        ("studies/1.2/series/1.3/instances/1.4/frames/1,2", "studies/1.2/series/1.3/instances/1.4/frames/1,2"),
        ("studies/1.2/series/1.3/instances/1.4/frames/1%2C2%2c3", "studies/1.2/series/1.3/instances/1.4/frames/1,2,3"),
        ("bulkdata/a_b-c~d.e/1", "bulkdata/a_b-c~d.e/1"),
    ],
)
def test_resources_of_dicomweb_are_let_through(path, sent):
    assert checked_path(path, "GET") == sent


@pytest.mark.parametrize(
    "path",
    ["", "/", "..", "studies/..", "studies/.", "studies//x", "/studies", "studies/%2e%2e", "studies/%2C%2Fx%2f",
     "studies@x", "studies:80", "studies\\x", "studies%5cx", "studies x", "studies\n", "servers", "system", "Studies",
     "studies/-x", "studies/\u0661"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_anything_else_is_not(path, method):
    with pytest.raises(BadInputError, match="is no DICOMweb resource; ask for something below studies, series or"):
        checked_path(path, method)


@given(st.text())
def test_whatever_gets_through_stays_below_the_root(path):
    try:
        sent = checked_path(f"studies/{path}", "GET")
    except BadInputError:
        return
    assert sent.isascii()
    assert not {"", ".", ".."} & set(sent.split("/"))
    assert not set("%@:\\?#; ") & set(sent)


@given(st.lists(st.sampled_from(["http://a/", "http://", "http:", "a/", "h", "x"]), max_size=30), st.data())
def test_links_are_replaced_wherever_the_answer_is_cut(parts, data):
    whole = "".join(parts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def run():
        async def stream():
            for chunk in chunks:
                yield chunk

        return b"".join([chunk async for chunk in _replaced(stream(), b"http://a/", b"/P/")])

    assert asyncio.run(run()) == whole.replace(b"http://a/", b"/P/")


def item(kind, uid, link):
    return {
        "00081150": {"vr": "UI", "Value": [kind]},
        "00081155": {"vr": "UI", "Value": [uid]},
        "00081190": {"vr": "UR", "Value": [link]},
    }


def test_stored_segs_by_study():
    items = [
        item(SEG, "1.4", "http://pacs/dicom-web/studies/1.2/series/1.3/instances/1.4"),
        item(SEG, "1.5", "/proxy/dicom/studies/1.2/series/1.3/instances/1.5"),
        item(CT, "1.4", "http://pacs/dicom-web/studies/1.7/series/1.3/instances/1.4"),
        item("1.2.840.10008.5.1.4.1.1.66.7", "1.9", "http://pacs/studies/1.8"),
    ]
    found = stored_segs(json.dumps({"00081199": {"vr": "SQ", "Value": items}}).encode())
    assert found == {"1.2": ["1.4", "1.5"], "1.8": ["1.9"]}


@pytest.mark.parametrize(
    "answer", [b"", b"<xml/>", b"[]", b"1", b"{}", b"\xff", b'{"00081199": {}}', b'{"00081199": {"Value": [1]}}']
)
def test_answers_that_tell_nothing(answer):
    assert stored_segs(answer) == {}
