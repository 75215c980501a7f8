import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib.access.roles import Role
from lib.web.front_page import install_front_page
from lib.web.guard.callers import SCOPE_KEY, Caller


class _Parsed(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.loaded, self.links = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        self.links += [values["href"]] if tag == "a" else []
        self.loaded += [values[key] for key in ("src", "srcset", "data", "action") if key in values]
        self.loaded += [values["href"]] if tag in {"link", "base"} else []


@pytest.fixture(params=["/", "/docs"])
def answer(request):
    app = FastAPI(docs_url="/", redoc_url="/docs")  # as MONAI Label's, with scripts of a public network
    install_front_page(app)
    return TestClient(app).get(request.param)


def test_it_loads_nothing_from_anywhere(answer):
    page = _Parsed(answer.text)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.loaded == []
    assert not page.tags & {"script", "iframe", "object", "embed", "form", "img"}
    assert "://" not in answer.text
    assert all(link.startswith("/") for link in page.links)


def test_its_policy_allows_its_style_and_nothing_else(answer):
    (style,) = re.findall("<style>(.*)</style>", answer.text)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy == {"style-src": f"'sha256-{digest}'"} | dict.fromkeys(
        ("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'"
    )


def test_it_says_what_the_server_is_and_where_to_go(answer):
    page = _Parsed(answer.text)
    assert "Research software: not for diagnosis or treatment." in answer.text
    assert page.links == ["/ohif/", "/openapi.json"]


def test_it_says_who_is_logged_in():
    app = FastAPI(docs_url="/", redoc_url="/docs")
    install_front_page(app)

    async def logged_in(scope, receive, send):
        await app({**scope, SCOPE_KEY: Caller("a<b", Role.REVIEWER)}, receive, send)

    text = TestClient(logged_in).get("/").text
    assert "You are logged in as a&lt;b (reviewer)." in text
    assert _Parsed(text).links == ["/logout", "/ohif/", "/openapi.json"]
