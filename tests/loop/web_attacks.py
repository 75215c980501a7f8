"""What a page of another server can do to a plain MONAI Label server, and what one in front of a PACS lends to anybody.

Like `tests.loop.attacks`, each tells whether it succeeded.
"""

from dataclasses import replace

from tests.loop.attacked import Site

_PAGE = "https://evil.example"
_BEHIND = (
    "..%2fsystem", "..%2fpatients", "..%2Fsystem%3f", "wado/..%2f..%2fsystem", "qido/..%2fsystem",
    "stow/..%2fsystem", "studies%2f..%2f..%2fsystem", "..%252fsystem", "..%5csystem", "%2e%2e/system", "%2fsystem",
    "studies/..;/..%2fsystem", "../system", "studies/%2e%2e/%2e%2e/system", "%2e%2e%2fsystem", "./..%2fsystem",
)  # fmt: skip


def page_reads(site: Site) -> bool:
    """A page is allowed to send what it likes and to read the answers, as whoever looks at it."""
    asking = {"Origin": _PAGE, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-any"}
    page = _in_a_page(site)
    preflight = page.ask("OPTIONS", "/datastore/label", headers=asking)
    answer = page.ask("GET", "/datastore/?output=all", headers={"Origin": _PAGE, "Cookie": site.cookie or "a=b"})
    return any(one.headers.get("Access-Control-Allow-Origin") in {_PAGE, "*"} for one in (preflight, answer))


def page_sends(site: Site) -> bool:
    """A page sends what browsers ask no leave for: a form, or nothing."""
    headers = {"Origin": _PAGE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    page, form = _in_a_page(site), {"params": "{}"}
    answers = [
        page.ask("POST", "/activelearning/random", headers=headers),
        page.ask("POST", f"/infer/{site.model}?image=case_60", headers=headers, data=form),
        page.ask("POST", "/activelearning/random", headers=headers | {"Origin": "null"}),
    ]
    return any(answer.status_code < 400 for answer in answers)


def name_that_leads_here(site: Site) -> bool:
    """A page of a name whose owner has it lead to this machine, so that the server's answers count as the page's."""
    port = site.server.port
    names = (f"evil.example:{port}", "evil.example", f"127.0.0.1.evil.example:{port}", f"localhost.evil.example:{port}")
    page = replace(_in_a_page(site), cookie=None)  # which is of another name
    answers = [page.ask("GET", path, headers={"Host": name}) for name in names for path in ("/datastore/", "/metrics")]
    return any(answer.status_code < 400 for answer in answers)


def pacs_beside_dicomweb(site: Site) -> bool:
    """All else that the PACS offers, with the server's login there."""
    found = [site.raw("GET", f"/proxy/dicom/{path}") for path in _BEHIND]
    found.append(site.ask("POST", "/proxy/dicom/..%2ftools%2flookup", data=b"P1").status_code)
    return any(status < 400 for status in found)


def nobody_gets_in(site: Site) -> bool:
    """A token that counts, of an identity provider that the server was told of, lets nobody in."""
    return site.ask("GET", "/auth/token/valid").status_code != 200


def _in_a_page(site: Site) -> Site:
    """As a browser asks, which sends cookies by itself and no other login."""
    return replace(site, token=None)
