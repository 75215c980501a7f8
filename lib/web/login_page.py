"""The pages on which people log in and out with a browser: no script, nothing from elsewhere."""

import base64
import hashlib
import re
from pathlib import Path

from markupsafe import Markup

from lib.metrics.page import page_template

_TEMPLATE = page_template(Path(__file__).with_name("login_page.html"), {})
_STYLE = Path(__file__).with_name("login_page.css").read_text(encoding="utf-8").strip()
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# For whoever serves the pages. Browsers take `form-action` for where a form's answer leads as well.
CONTENT_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

# A path of this server and nothing that a browser could take for another: `//host`, `/\\host`, tabs that it leaves out.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@%?#\[\]-][A-Za-z0-9._~!$&'()*+,;=:@%/?#\[\]-]*)?", re.ASCII)
_LONGEST = 2000  # characters
_OWN = re.compile(r"/log(?:in|out)(?:[/?#]|$)")


def safe_path(text: str, otherwise: str) -> str:
    """Where to go after a login: a path of this server, else `otherwise`.

    Example:
        >>> safe_path("/ohif/viewer?StudyInstanceUIDs=1.2", "/"), safe_path("//elsewhere.example", "/")
        ('/ohif/viewer?StudyInstanceUIDs=1.2', '/')
    """
    fits = len(text) <= _LONGEST and _PATH.fullmatch(text) and not _OWN.match(text)
    return text if fits else otherwise


def login_page(server: str, next_path: str, name: str = "", reason: str = "") -> str:
    """The page that asks for name and password.

    Args:
        server: what it is called.
        next_path: where to go afterwards.
        name: what was typed before.
        reason: why that was refused.
    """
    return _TEMPLATE.render(
        kind="login", heading="Log in", server=server, next=next_path, name=name, reason=reason, style=Markup(_STYLE)
    )


def logout_page(server: str) -> str:
    """The page with a button that logs out, as a link to click on must not."""
    return _TEMPLATE.render(kind="logout", heading="Log out", server=server, reason="", style=Markup(_STYLE))
