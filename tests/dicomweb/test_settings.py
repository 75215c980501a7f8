"""Where a PACS is: no secret in a URL, a repr or a message."""

import re

import pytest

from lib.dicomweb.settings import PacsSettings
from lib.errors import SettingsError

URL = "https://pacs.example:8443/dicom-web"


def test_the_login_comes_from_the_environment(tmp_path):
    authorities = tmp_path / "ca.pem"
    authorities.write_text("")
    settings = PacsSettings.from_environment(
        f"{URL}/",
        {"LIVERLOOP_PACS_USER": "ann", "LIVERLOOP_PACS_PASSWORD": "s3cret", "LIVERLOOP_PACS_CA": str(authorities)},
    )
    assert settings == PacsSettings(URL, user="ann", password="s3cret", certificates=authorities)
    assert PacsSettings.from_environment(URL, {"LIVERLOOP_PACS_TOKEN": "t0ken"}).token == "t0ken"
    assert PacsSettings.from_environment(URL, {}) == PacsSettings(URL)


def test_one_pacs_has_one_address():
    """Its working folder, with all labels, is found by it."""
    assert PacsSettings("HTTPS://PACS.Example:8443/Dicom-Web//").url == "https://pacs.example:8443/Dicom-Web"


def test_no_secret_is_shown():
    assert "s3cret" not in repr(PacsSettings(URL, user="ann", password="s3cret"))
    assert "s3cret" not in repr(PacsSettings(URL, token="s3cret"))


@pytest.mark.parametrize(
    "url", ["ftp://pacs.example", "pacs.example/dicom-web", "http://", "", "https:///dicom-web", "file:///etc"]
)
def test_only_web_addresses(url):
    with pytest.raises(SettingsError, match=re.escape(f"{url!r} is no address of a PACS; give the root")):
        PacsSettings(url)


@pytest.mark.parametrize(
    "url", ["https://ann:s3cret@pacs.example/", "https://s3cret@pacs.example", "http://pacs.example/?x=ann:s3cret@y"]
)
def test_no_login_in_the_url(url):
    with pytest.raises(SettingsError, match="leave it out and set LIVERLOOP_PACS_USER") as caught:
        PacsSettings(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", [f"{URL}?token=s3cret", f"{URL}#s3cret"])
def test_nothing_after_the_path(url):
    with pytest.raises(SettingsError, match="holds \\? or #") as caught:
        PacsSettings(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://pacs.example:port/", "http://pacs.example:99999/", "http://[::1/"])
def test_unreadable_urls(url):
    with pytest.raises(SettingsError, match="can't be read"):
        PacsSettings(url)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"USER": "ann"}, "LIVERLOOP_PACS_USER is set but LIVERLOOP_PACS_PASSWORD is not; set both or none"),
        ({"PASSWORD": "s3cret"}, "LIVERLOOP_PACS_PASSWORD is set but LIVERLOOP_PACS_USER is not; set both or none"),
        (
            {"USER": "ann", "PASSWORD": "s3cret", "TOKEN": "t0ken"},
            "LIVERLOOP_PACS_USER and LIVERLOOP_PACS_TOKEN are both set; unset one of them",
        ),
        ({"USER": "a:b", "PASSWORD": "s3cret"}, "LIVERLOOP_PACS_USER holds a colon"),
        ({"TOKEN": "s3cret\nX-Other: 1"}, "LIVERLOOP_PACS_TOKEN holds spaces, line breaks or letters"),
        ({"CA": "/no/such.pem"}, "LIVERLOOP_PACS_CA names /no/such.pem, which is no file; give a PEM file"),
    ],
)
def test_what_does_not_fit(environment, message):
    with pytest.raises(SettingsError, match=message) as caught:
        PacsSettings.from_environment(URL, {f"LIVERLOOP_PACS_{name}": value for name, value in environment.items()})
    assert "s3cret" not in str(caught.value)
