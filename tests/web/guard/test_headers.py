import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.web.guard.headers import security_headers

_EVERY = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": (
        b"camera=(), display-capture=(), geolocation=(), microphone=(), midi=(), payment=(), serial=(), usb=()"
    ),
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_HSTS = (b"strict-transport-security", b"max-age=31536000")


@pytest.mark.parametrize("path", ["/", "/info/", "/proxy/dicom/studies", "/ohifx", "/ohif.js", "/staticky", ""])
def test_an_answer_of_the_interface_is_neither_kept_nor_framed_nor_run(path):
    assert dict(security_headers(path, False, set())) == _EVERY | {
        b"x-frame-options": b"DENY",
        b"cache-control": b"no-store",
    }


@pytest.mark.parametrize("path", ["/ohif", "/ohif/", "/ohif/app-config.js", "/ohif/assets/a.js"])
def test_the_viewer_may_be_kept_and_frames_itself(path):
    assert dict(security_headers(path, False, set())) == _EVERY | {b"x-frame-options": b"SAMEORIGIN"}


def test_only_https_is_told_to_stay_https():
    assert _HSTS in security_headers("/", True, set())
    assert _HSTS not in security_headers("/", False, set())


@pytest.mark.parametrize("name", ["Content-Security-Policy", "content-security-policy", "CACHE-CONTROL"])
def test_what_is_there_is_left_alone(name):
    given_names = dict(security_headers("/login", True, [name]))
    assert name.lower().encode() not in given_names
    assert len(given_names) == len(security_headers("/login", True, [])) - 1


@given(st.text(), st.booleans(), st.sets(st.text()))
def test_names_are_lower_case_and_come_once_whatever_the_path(path, is_https, present):
    found = security_headers(path, is_https, present)
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and b"\n" not in name + value for name, value in found)
