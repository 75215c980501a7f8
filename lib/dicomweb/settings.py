"""Where a PACS is and how to talk to it; who we are there comes from environment variables alone."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lib.errors import SettingsError

USER = "LIVERLOOP_PACS_USER"
PASSWORD = "LIVERLOOP_PACS_PASSWORD"
TOKEN = "LIVERLOOP_PACS_TOKEN"
CERTIFICATES = "LIVERLOOP_PACS_CA"


@dataclass(frozen=True)
class PacsSettings:
    """How to reach a PACS. Its `repr` holds no secret.

    Args:
        url: root of the DICOMweb service, such as `https://pacs.example:8443/dicom-web`.
        user: for basic authentication, together with `password`; empty for none.
        password: see `user`.
        token: for bearer authentication; excludes `user`.
        certificates: file with the certificates (PEM) of the authorities that may vouch for the PACS; None for
            those that everybody trusts. There is no way to turn the check off.
        connect_timeout_s: how long to wait for a connection.
        read_timeout_s: how long to wait for the next bytes of an answer.
        retries: how often a request that can do no harm twice is sent again.
        backoff_s: pause before the second retry, doubled for each further one, with as much again by chance.
        page_size: how many series or instances to ask for at once; a PACS may give fewer.

    Raises:
        SettingsError: the URL is not one of a DICOMweb service or holds a login, the login is half a login or two,
            or the certificates are missing.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    certificates: Path | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retries: int = 3
    backoff_s: float = 0.5
    page_size: int = 200

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _checked_url(self.url))
        if bool(self.user) != bool(self.password):
            given, lacks = (USER, PASSWORD) if self.user else (PASSWORD, USER)
            msg = f"{given} is set but {lacks} is not; set both or none"
            raise SettingsError(msg)
        if ":" in self.user:
            msg = f"{USER} holds a colon, which basic authentication does not allow; use another user of the PACS"
            raise SettingsError(msg)
        if self.user and self.token:
            msg = f"{USER} and {TOKEN} are both set; unset one of them"
            raise SettingsError(msg)
        if not self.token.isascii() or len(self.token.split()) > 1 or self.token != self.token.strip():
            msg = f"{TOKEN} holds spaces, line breaks or letters that no token has; set it again"
            raise SettingsError(msg)
        if self.certificates is not None and not self.certificates.is_file():
            msg = f"{CERTIFICATES} names {self.certificates}, which is no file; give a PEM file with certificates"
            raise SettingsError(msg)

    @classmethod
    def from_environment(cls, url: str, environment: Mapping[str, str] = os.environ) -> "PacsSettings":
        """Settings for a URL with the login and the certificates that environment variables name.

        Args:
            url: root of the DICOMweb service.
            environment: `LIVERLOOP_PACS_USER` and `LIVERLOOP_PACS_PASSWORD`, or `LIVERLOOP_PACS_TOKEN`, and
                `LIVERLOOP_PACS_CA` are read from it.

        Raises:
            SettingsError: as the class.
        """
        certificates = environment.get(CERTIFICATES)
        return cls(
            url,
            user=environment.get(USER, ""),
            password=environment.get(PASSWORD, ""),
            token=environment.get(TOKEN, ""),
            certificates=Path(certificates) if certificates else None,
        )


def _checked_url(url: str) -> str:
    """Without a slash at its end, its host in small letters, so that one PACS has one address; never shown before it
    is known to hold no password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        msg = "the PACS's URL can't be read; give the root of its DICOMweb service, such as http://host:8042/dicom-web"
        raise SettingsError(msg) from None
    if "@" in url:
        msg = f"the PACS's URL holds a login, which logs would show; leave it out and set {USER} and {PASSWORD}"
        raise SettingsError(msg)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"{url!r} is no address of a PACS; give the root of its DICOMweb service, such as http://host/dicom-web"
        raise SettingsError(msg)
    if parts.query or parts.fragment:
        msg = "the PACS's URL holds ? or #; give the root of its DICOMweb service, such as http://host/dicom-web"
        raise SettingsError(msg)
    return parts._replace(netloc=parts.netloc.lower()).geturl().rstrip("/")
