import base64
import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.web.login_page import CONTENT_POLICY, login_page, logout_page, safe_path

GOOD = [
    "/",
    "/ohif/",
    "/ohif/viewer?StudyInstanceUIDs=1.2&x=%2F",
    "/a//b",
    "/models/x/report#worst",
    "/loginx",
    "/%2f%2fx",
]
BAD = [
    "", "ohif/", "//elsewhere.example", "///elsewhere.example", "/\\elsewhere.example", "\\\\elsewhere.example",
    "https://elsewhere.example", "https:/elsewhere.example", "javascript:alert(1)", "/\t/elsewhere.example",
    "/\n/elsewhere.example", "/a\r\nSet-Cookie: x=y", "/a b", "/\0", "/é", " /ohif/", "/ohif/ ", "/<x>", '/"x"',
    "/login", "/login?next=/", "/login/", "/logout", "/logout#x", "/" + "x" * 2000, "/a\n",
]  # fmt: skip


@pytest.mark.parametrize("path", GOOD)
def test_paths_of_this_server(path):
    assert safe_path(path, "/home") == path


@pytest.mark.parametrize("path", BAD, ids=range(len(BAD)))
def test_everything_else_leads_home(path):
    assert safe_path(path, "/home") == "/home"


@given(st.text(alphabet=st.sampled_from(list("/\\.:@?#%25fFaA \t\r\n;&[]-_http")), max_size=12))
def test_no_text_leads_to_another_server(text):
    found = urlsplit(urljoin("https://here.example/login", safe_path(text, "/")))
    assert (found.scheme, found.netloc) == ("https", "here.example")


class Page(HTMLParser):
    """Its tags with their attributes, and its texts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


NASTY = "<script>alert(1)</script>\"'&amp;"


@pytest.mark.parametrize("html", [login_page(NASTY, "/", NASTY, NASTY), logout_page(NASTY)], ids=["login", "logout"])
def test_what_comes_from_outside_is_text(html):
    page = Page(html)
    assert NASTY in page.texts
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)


def test_the_form():
    page = Page(login_page("LiverLoop", "/ohif/", "ann", "Wrong."))
    assert page.of("form") == [{"method": "post", "action": "/login"}]
    hidden, name, password = page.of("input")
    assert (hidden["name"], hidden["value"]) == ("next", "/ohif/")
    assert (name["name"], name["value"], name["autocomplete"]) == ("name", "ann", "username")
    assert (password["name"], password["type"], password.get("value")) == ("password", "password", None)
    assert [label["for"] for label in page.of("label")] == [name["id"], password["id"]]
    assert "autofocus" in password
    assert "autofocus" not in name
    assert [one for _, one in page.tags if one.get("role") == "alert"] == [
        {"class": "reason", "role": "alert", "id": "reason"}
    ]
    assert name["aria-describedby"] == "reason"
    assert "Research software, not for clinical use." in page.texts


def test_without_a_reason_nothing_alerts():
    page = Page(login_page("LiverLoop", "/"))
    assert not [one for _, one in page.tags if one.get("role") or one.get("aria-describedby")]
    assert "autofocus" in page.of("input")[1]


@pytest.mark.parametrize("html", [login_page("x", "/"), logout_page("x")], ids=["login", "logout"])
def test_the_policy_allows_the_style_and_nothing_else(html):
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ) == CONTENT_POLICY
