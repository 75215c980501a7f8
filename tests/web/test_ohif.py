"""The viewer's files, nothing else, and only where there is a PACS; what it does is tests/loop/test_loop_ohif.py."""

import base64
import hashlib
import re
from pathlib import Path

import monailabel
import pytest
from fastapi import FastAPI
from monailabel.endpoints import ohif as of_monai_label

from lib.labels import LIVER, TUMOR
from lib.web.ohif import install_ohif
from tests.web.serving import ask, serving

FOLDER = Path(monailabel.__file__).parent / "endpoints" / "static" / "ohif"


def server_with(labels):
    app = FastAPI()
    app.include_router(of_monai_label.router)
    install_ohif(app, labels)
    return serving(app)


@pytest.fixture(scope="module")
def port():
    with server_with({"liver": LIVER, "tumor": TUMOR}) as found:
        yield found


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("assets/favicon.ico", "image/"),
        ("assets/images/CT-AAA.png", "image/png"),
        ("manifest.json", "application/json"),
        ("app.bundle.css", "text/css"),
    ],
)
def test_files_come_with_their_kind(port, path, kind):
    if not (FOLDER / path).is_file():  # of this version of the viewer
        path = next(f.relative_to(FOLDER).as_posix() for f in sorted(FOLDER.glob("assets/**/*" + Path(path).suffix)))
    reply = ask(port, "GET", f"/ohif/{path}")
    assert (reply.status, reply.body) == (200, (FOLDER / path).read_bytes())
    assert reply.headers["content-type"].startswith(kind)


@pytest.mark.parametrize("view", ["", "monai-label?StudyInstanceUIDs=1.2", "segmentation", "viewer/dicomweb"])
def test_views_get_the_page(port, view):
    reply = ask(port, "GET", f"/ohif/{view}")
    assert (reply.status, reply.body) == (200, (FOLDER / "index.html").read_bytes())
    assert "connect-src" not in reply.headers["content-security-policy"]
    assert reply.headers["content-security-policy"].startswith("default-src 'self'")  # nothing goes elsewhere


def test_of_scripts_only_files_and_those_of_the_page_run(port):
    reply = ask(port, "GET", "/ohif/")
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    page = (FOLDER / "index.html").read_text("utf-8")
    inline = [script for script in re.findall("<script[^>]*>(.*?)</script>", page, re.DOTALL) if script]
    assert inline
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    assert policy["script-src"].split() == [
        "'self'", *(f"'sha256-{digest}'" for digest in digests), "'unsafe-eval'", "blob:",
    ]  # fmt: skip
    assert (policy["object-src"], policy["base-uri"], policy["frame-ancestors"]) == ("'none'", "'self'", "'self'")


def test_the_address_without_a_slash_leads_there(port):
    reply = ask(port, "GET", "/ohif")
    assert (reply.status, reply.headers["location"]) == (307, "/ohif/")


def test_the_configuration_is_ours(port):
    reply = ask(port, "GET", "/ohif/app-config.js")
    text = reply.body.decode()
    assert reply.headers["content-type"].startswith("text/javascript")
    assert 'const root = "/proxy/dicom";' in text
    assert 'const colors = {"liver": [221, 130, 101], "tumor": [144, 238, 144]};' in text
    assert "__" not in text


def test_a_file_that_was_fetched_is_not_sent_again(port):
    first = ask(port, "GET", "/ohif/app.bundle.css")
    again = ask(port, "GET", "/ohif/app.bundle.css", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["missing.js", "assets/missing.png", "..%2f..%2fohif.py", "../../ohif.py", "%2e%2e/%2e%2e/ohif.py",
     "..%2ffavicon.ico", "..%5cfavicon.ico", "%2fetc%2fpasswd", "//etc/passwd", "assets/..%2f..%2f..%2fohif.py",
     "x%00.js", "a" * 5000 + ".js"],
)  # fmt: skip
def test_no_other_file_can_be_read(port, path):
    reply = ask(port, "GET", f"/ohif/{path}")
    if reply.status == 200:  # taken for a view
        assert reply.body == (FOLDER / "index.html").read_bytes()
    else:
        assert reply.status == 404
    assert b"root:" not in reply.body
    assert b"APIRouter" not in reply.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_is_taken(port, method):
    for path in ("", "app-config.js", "assets/favicon.ico"):
        assert ask(port, method, f"/ohif/{path}").status == 405


def test_without_a_pacs_a_page_says_how_to_start_with_one():
    remedy = "start it with --studies http://HOST:PORT/dicom-web to work on a PACS"
    with server_with(None) as port:
        for path in ("/ohif", "/ohif/", "/ohif/monai-label", "/ohif/assets/favicon.ico"):
            page = ask(port, "GET", path, Accept="text/html,*/*")
            assert page.status == 404
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert remedy in page.body.decode()
            assert remedy in ask(port, "GET", path).body.decode()
