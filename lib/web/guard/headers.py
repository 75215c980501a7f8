"""Headers of every answer by which a browser keeps patients' data, and the login, to the server's own pages.

What they mean: the OWASP Secure Headers Project and, for the policy, W3C's Content Security Policy Level 3.
"""

from collections.abc import Collection

# Nothing of an answer is run, shown in another page or loaded from anywhere; for JSON, images and labels.
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_YEAR_S = 365 * 24 * 3600
_SENSORS = ("camera", "display-capture", "geolocation", "microphone", "midi", "payment", "serial", "usb")
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",  # a label is never taken for a page
    "Referrer-Policy": "no-referrer",  # addresses hold image ids
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",  # origins that are let in ask by CORS, which this leaves alone
    "Permissions-Policy": ", ".join(f"{name}=()" for name in _SENSORS),
}
_VIEWER = "/ohif"
# Files of the program, the same for everybody.
_PUBLIC = (_VIEWER, "/static")


def security_headers(path: str, is_https: bool, present: Collection[str]) -> list[tuple[bytes, bytes]]:
    """The headers to add to an answer.

    Args:
        path: of the request, without its query.
        is_https: whether the client reached the server, or a proxy before it that is trusted to tell, by https.
        present: names of the headers that the answer has already, in any case; they are left as they are.

    Returns:
        Names and values as ASGI takes them.

    Example:
        >>> dict(security_headers("/info/", False, ["content-type"]))[b"cache-control"]
        b'no-store'
    """
    # Answers that other origins may frame are none; the viewer's policy, which `lib.web.ohif` sets, lets itself.
    wanted = _ALWAYS | {"X-Frame-Options": "SAMEORIGIN" if _is_below(path, _VIEWER) else "DENY"}
    wanted["Content-Security-Policy"] = _NOTHING
    if not any(_is_below(path, folder) for folder in _PUBLIC):
        wanted["Cache-Control"] = "no-store"  # what a patient's is does not stay on the disk of a shared computer
    if is_https:
        # Not for subdomains, which are other machines of the hospital.
        wanted["Strict-Transport-Security"] = f"max-age={_YEAR_S}"
    there = {name.lower() for name in present}
    return [
        (name.lower().encode(), value.encode()) for name, value in wanted.items() if name.lower() not in there
    ]  # fmt: skip


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
