"""The guard in front of an application that notes what reaches it."""

import asyncio
import ipaddress
from types import SimpleNamespace

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from urllib3 import encode_multipart_formdata

from lib.access.roles import Role
from lib.errors import LoginError, TooManyLoginsError, UnavailableError
from lib.store.accounts import LoggedIn
from lib.web.guard.callers import COOKIE, caller_of
from lib.web.guard.guard import Guard, Site
from lib.web.guard.handed_out import HandedOut
from lib.web.guard.rows import Form, Json, Off, Row
from lib.web.guard.table import TABLE
from tests.web.guard.test_bodies import NIFTI

ROWS = [row for row in TABLE if isinstance(row, Row)]
OFF = [row for row in TABLE if isinstance(row, Off)]
VALUES = {
    "{model}": "liver_tumor", "{strategy}": "first", "{session_id}": "5c6ab2a0-ca2f-11f0-8de9-0242ac120002",
    "{method}": "dice", "{version}": "starter", "{image}": "case_1", "{tag}": "final", "{number}": "1",
    "{path:path}": "x",
}  # fmt: skip


def filled(path):
    """The template with a value in each place."""
    for name, value in VALUES.items():
        path = path.replace(name, value)
    return path


class Users:
    """Logins by tokens that are the names of roles."""

    def __init__(self, *, are_needed=True, problem=None):
        self.are_needed, self.problem = are_needed, problem

    def needed(self):
        if self.problem:
            raise self.problem
        return self.are_needed

    def who(self, token):
        if token not in {str(role) for role in Role}:
            raise LoginError("the login has ended; log in again")
        return LoggedIn(f"user-{token}", Role(token), 1e10)


class Behind:
    """What the guard protects; it reads a request's form or body as an endpoint would."""

    def __init__(self, status=200):
        self.reached, self.status = [], status

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            self.reached.append("lifespan")
            return
        request = Request(scope, receive)
        try:
            if "form" in request.headers.get("content-type", ""):
                async with request.form() as form:
                    names = [name for name, _ in form.multi_items()]
            else:
                names = [(await request.body()).decode()]
        except Exception:
            await JSONResponse({"detail": "There was an error parsing the body"}, 400)(scope, receive, send)
            return
        self.reached.append((scope["method"], scope["path"], names, caller_of(request)))
        await JSONResponse({"answer": "yes"}, self.status)(scope, receive, send)


@pytest.fixture
def behind():
    return Behind()


@pytest.fixture
def make(behind):
    """Makes the guard; `asked` sends it a request."""

    def build(logins=None, *, client="192.0.2.7", upload_bytes=1024 * 1024, **site):
        seen, noted = [], []
        known = {
            "logins": logins or Users(),
            "hosts": frozenset(),
            "origins": frozenset(),
            "watchers": [ipaddress.ip_network("192.0.2.64/26")],
            "upload_bytes": upload_bytes,
            "seen": lambda *what: seen.append(what[:3]),
            "note": lambda kind, caller, address, detail: noted.append((kind, caller.name, address, dict(detail))),
        }
        guard = Guard(behind, lambda: Site(**known | site))

        def asked(method, path, role=None, *, base="http://liver.example.org", **options):
            async def send():
                transport = httpx.ASGITransport(guard, client=(client, 123))
                async with httpx.AsyncClient(transport=transport, base_url=base) as sender:
                    if role:
                        options.setdefault("headers", {})["Authorization"] = f"Bearer {role}"
                    return await sender.request(method, path, **options)

            return asyncio.run(send())

        return SimpleNamespace(asked=asked, seen=seen, noted=noted, guard=guard)

    return build


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_each_row_is_for_its_role_and_those_above(make, behind, row):
    made = make()
    for role in (None, *Role):
        answer = made.asked(row.method, filled(row.path), role)
        if row.role is not None and (role is None or role < row.role):
            assert answer.status_code == (401 if role is None else 403)
            assert not behind.reached
            if row.method == "HEAD":
                assert not answer.content
            elif role is None:
                assert answer.json() == {"detail": "log in first; if you just did, the name or the password was wrong"}
                assert answer.headers["www-authenticate"] == 'Bearer realm="LiverLoop"'
            else:
                assert answer.json()["detail"] == (
                    f"user-{role} is {role} here, and this needs {row.role}; ask an administrator"
                )
        else:  # whether it is reached depends on what it must carry
            assert answer.status_code in {200, 400}
        behind.reached.clear()


@pytest.mark.parametrize("row", OFF, ids=lambda row: f"{row.method} {row.path}")
def test_what_is_switched_off_is_so_for_administrators_too(make, behind, row):
    answer = make().asked(row.method, filled(row.path), Role.ADMIN)
    assert answer.status_code == 403
    assert answer.json()["detail"] == f"{row.method} {row.path} is switched off here: {row.why}"
    assert not behind.reached


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_nothing_more_than_the_row_says_is_carried(make, behind, row):
    made, path = make(), filled(row.path)
    if row.query is not None:
        answer = made.asked(row.method, f"{path}?bundle_path=x", Role.ADMIN)
        assert answer.status_code == 400, answer.text
        assert row.method == "HEAD" or "bundle_path" in answer.json()["detail"]
    if row.body is None and row.method not in {"GET", "HEAD"}:
        assert made.asked(row.method, path, Role.ADMIN, content=b"x").status_code in {400, 413}
    if isinstance(row.body, Json) and row.body.model.model_config.get("extra") == "forbid":
        answer = made.asked(row.method, path, Role.ADMIN, json={"bundle_path": "x"})
        assert answer.status_code == 400
    if isinstance(row.body, Form):
        answer = made.asked(row.method, path, Role.ADMIN, data={"bundle_path": "x"})
        assert answer.status_code == 400
    assert not behind.reached


def test_what_is_not_in_the_table(make, behind):
    made = make()
    answer = made.asked("GET", "/nowhere", Role.ADMIN)
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is nothing at '/nowhere' on this server")
    answer = made.asked("PATCH", "/datastore/image", Role.ADMIN)
    assert (answer.status_code, answer.json()["detail"]) == (
        405, "this address takes DELETE, GET, HEAD, PUT, not PATCH",
    )  # fmt: skip
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"
    for path in ("/infer/../model/liver_tumor", "/infer/a%2Fb", "//infer/liver_tumor", "/infer/", "/INFER/liver_tumor"):
        assert made.asked("POST", path, Role.ADMIN).status_code == 404
    assert made.asked("ANN-LEE", "/nowhere").status_code == 404
    assert not behind.reached
    assert made.seen[0] == ("GET", "(other)", 404)
    assert made.seen[-1] == ("(other)", "(other)", 404)  # or everybody could make figures without end


def test_who_asks_reaches_the_endpoint(make, behind):
    make().asked("GET", "/info/", Role.REVIEWER)
    make(Users(are_needed=False)).asked("GET", "/info/", base="http://127.0.0.1:8000")
    make().asked("GET", "/healthz", Role.ADMIN)
    callers = [one[3] for one in behind.reached]
    assert [(caller.name, caller.role) for caller in callers] == [
        ("user-reviewer", Role.REVIEWER), (None, Role.ADMIN), (None, Role.ANNOTATOR),
    ]  # fmt: skip


def test_an_image_that_was_just_given_needs_no_login(make, behind):
    known = HandedOut()
    made = make(handed_out=known)
    known.note("a b", "192.0.2.7", "liver.example.org", "reviewer")
    for query in ("image=c", "image=c&image=a+b", "image=a+b&image=a+b", ""):
        assert made.asked("GET", f"/datastore/image?{query}").status_code == 401
    assert made.asked("GET", "/datastore/image/info?image=a+b").status_code == 401
    assert made.asked("HEAD", "/datastore/image?image=a+b").status_code == 401
    assert make(handed_out=known, client="192.0.2.8").asked("GET", "/datastore/image?image=a+b").status_code == 401
    # A page that gives its own name our address.
    assert made.asked("GET", "/datastore/image?image=a+b", base="http://evil.example.org").status_code == 401
    assert made.asked("GET", "/datastore/image?image=a+b").status_code == 200
    caller = behind.reached[-1][3]
    assert (caller.name, caller.role) == ("user-reviewer", Role.REVIEWER)
    known.note("c", "192.0.2.7", "liver.example.org", "a login that has ended")
    assert made.asked("GET", "/datastore/image?image=c").status_code == 401


@pytest.mark.parametrize(("method", "path"), [("GET", "/info/"), ("DELETE", "/train/"), ("GET", "/nowhere")])
def test_a_length_without_a_body_is_not_waited_for(make, method, path):
    """MONAI Label's Python client repeats the length of the last body that it sent once it is logged in."""
    headers = {"Content-Type": "application/json", "Content-Length": "57"}
    stale = {**headers, "Authorization": "Bearer admin"}
    assert make().asked(method, path, headers=stale).status_code in {200, 404}
    assert make().asked(method, path, headers=headers).status_code in {401, 404}


def test_a_browser_brings_its_cookie_and_is_sent_to_log_in(make, behind):
    made, page = make(), {"Accept": "text/html,*/*"}
    answer = made.asked("GET", "/ohif/viewer?StudyInstanceUIDs=1.2", headers=page)
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/login?next=%2Fohif%2Fviewer%3FStudyInstanceUIDs%3D1.2",
    )
    answer = made.asked("GET", "/ohif/", headers=page | {"Cookie": f"{COOKIE}=gone"})
    assert answer.status_code == 303
    answer = made.asked("GET", "/ohif/", headers=page | {"Cookie": f"a=b; {COOKIE}=annotator"})
    assert answer.status_code == 200
    assert behind.reached[-1][3].name == "user-annotator"
    answer = made.asked("POST", "/activelearning/first", headers=page)  # nobody's page
    assert answer.status_code == 401


def test_without_login_the_server_is_reached_by_its_own_names_only(make, behind):
    made = make(Users(are_needed=False), hosts=frozenset({"liver.example.org"}))
    for base in ("http://127.0.0.1:8000", "http://localhost", "http://[::1]:9", "http://LIVER.example.org"):
        assert made.asked("GET", "/info/", base=base).status_code == 200
    answer = made.asked("GET", "/info/", base="http://evil.example.org:8000")
    assert (answer.status_code, answer.json()["detail"]) == (
        403, "this server is not reached as 'evil.example.org'; use 127.0.0.1, or name it in access.hosts",
    )  # fmt: skip
    assert len(behind.reached) == 4


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({}, True),
        ({"Origin": "http://liver.example.org"}, True),
        ({"Origin": "https://liver.example.org"}, True),  # behind a proxy that does TLS
        ({"Origin": "https://viewer.example.org"}, True),
        ({"Origin": "http://liver.example.org:81"}, False),
        ({"Origin": "https://liver.example.org.evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
    ],
    ids=map(str, range(9)),
)
def test_pages_of_other_servers_may_not_act(make, behind, headers, is_taken):
    made = make(origins=frozenset({"https://viewer.example.org"}))
    answer = made.asked("POST", "/activelearning/first", Role.ANNOTATOR, headers=dict(headers))
    assert answer.status_code == (200 if is_taken else 403)
    assert bool(behind.reached) is is_taken
    if "Origin" in headers and not is_taken:
        assert answer.json()["detail"] == (
            f"a page of {headers['Origin']} may not send this; a viewer on another server must be named in "
            "MONAI_LABEL_CORS_ORIGINS"
        )


def test_a_name_that_is_none_is_nobodys(make):
    half = {"Host": "[::1"}
    assert make(client="127.0.0.1", watchers=[ipaddress.ip_network("127.0.0.1/32")]).asked(
        "GET", "/metrics", headers=half
    ).status_code == 401  # fmt: skip
    answer = make().asked("POST", "/activelearning/first", Role.ANNOTATOR, headers={"Origin": "http://[::1"})
    assert answer.status_code == 403


def test_a_browser_may_ask_what_it_may_send(make, behind):
    headers = {"Origin": "https://any.example.org", "Access-Control-Request-Method": "POST"}
    assert make().asked("OPTIONS", "/infer/liver_tumor", headers=headers).status_code == 200
    assert behind.reached
    assert make().asked("OPTIONS", "/infer/liver_tumor").status_code == 405


def test_figures_are_for_who_watches(make):
    assert make(client="192.0.2.70").asked("GET", "/metrics").status_code == 200
    assert make(client="192.0.2.7").asked("GET", "/metrics").status_code == 401
    assert make(client="192.0.2.7").asked("GET", "/metrics", Role.ANNOTATOR).status_code == 200
    assert make(client="a socket").asked("GET", "/metrics").status_code == 401


def test_a_page_in_a_browser_of_this_machine_does_not_watch(make):
    made = make(client="127.0.0.1", watchers=[ipaddress.ip_network("127.0.0.1/32")])
    assert made.asked("GET", "/metrics", base="http://evil.example").status_code == 401
    assert made.asked("GET", "/metrics", base="http://localhost:8000").status_code == 200


def test_a_refused_body_is_answered_with_the_reason_and_no_endpoint_begins(make, behind):
    made = make(upload_bytes=2000)
    for files, status, reason in [
        ({"label": ("l.nii.gz", b"#!/bin/sh")}, 400,
         "the file sent as 'label' is of no kind that is known here; send NIfTI or NRRD"),
        ({"label": ("l.nii.gz", NIFTI + bytes(5000))}, 413,
         "the request is larger than 2000 bytes, the most that is taken here (limits.upload_mb)"),
    ]:  # fmt: skip
        answer = made.asked("PUT", "/datastore/label?image=a", Role.ANNOTATOR, files=files)
        assert (answer.status_code, answer.json()["detail"]) == (status, reason)
    answer = made.asked("POST", "/train/liver_tumor", Role.ADMIN, content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert not behind.reached
    assert [status for _, _, status in made.seen] == [413, 415]  # the first came to the application, which counts it
    assert made.asked("PUT", "/datastore/label?image=a", Role.ANNOTATOR, files={"label": NIFTI}).status_code == 200
    assert behind.reached


def test_a_refused_client_is_waited_for_only_while_it_sends(make):
    content, content_type = encode_multipart_formdata({"label": ("l", b"#!/bin/sh")})
    for cut in (len(content), 30, 0):  # refused in the last part, with some to come, and before any came

        async def exchange(cut=cut):
            parts, sent = [content[:cut], content[cut:]] if cut < len(content) else [content], []

            async def receive():
                assert parts, "waits for more than the client sends"
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts)}

            async def send(message):
                sent.append(message)

            headers = [(b"content-type", content_type.encode()), (b"transfer-encoding", b"chunked")]
            headers += [(b"authorization", b"Bearer annotator")] if cut else []
            scope = {"type": "http", "method": "PUT", "path": "/datastore/label", "query_string": b"image=a",
                     "headers": headers, "scheme": "http", "client": ("192.0.2.7", 1)}  # fmt: skip
            await make().guard(scope, receive, send)
            assert not parts
            return sent[0]["status"]

        assert asyncio.run(exchange()) == (400 if cut else 401)


def test_bodies_without_a_length(make, behind):
    async def parts():
        yield b'{"bundle_path":'
        yield b'"x"}'

    options = {"content": parts(), "headers": {"Content-Type": "application/json"}}
    answer = make().asked("POST", "/train/liver_tumor", Role.ADMIN, **options)
    assert answer.status_code == 400
    assert "bundle_path" in answer.json()["detail"]
    assert not behind.reached


@pytest.mark.parametrize("length", ["-1", "1e3", "", "x"])
def test_a_length_that_is_no_number(make, behind, length):
    answer = make().asked("GET", "/info/", Role.ADMIN, headers={"Content-Length": length})
    assert (answer.status_code, answer.json()["detail"]) == (400, f"Content-Length = {length!r} is no number")
    assert not behind.reached


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("image=a&image=b", "the address has 'image' more than once; send it once"),
        ("image=%ff", "what stands after the address's question mark can't be read; write it as name=value&name=value "
         "in UTF-8"),
        ("image=" + "a" * 9000, "the address has more than 8192 characters after its question mark"),
    ],
    ids=["twice", "encoding", "long"],
)  # fmt: skip
def test_queries_that_are_refused(make, behind, query, reason):
    answer = make().asked("GET", f"/datastore/image?{query}", Role.ANNOTATOR)
    assert (answer.status_code, answer.json()["detail"]) == (400, reason)
    assert not behind.reached


def test_every_answer_has_an_id_and_safe_headers(make):
    for answer in (make().asked("GET", "/info/", Role.ADMIN), make().asked("GET", "/nowhere")):
        assert len(answer.headers["x-request-id"]) == 16
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "strict-transport-security" not in answer.headers
    answer = make().asked("GET", "/nowhere", headers={"X-Request-ID": "edge-7"}, base="https://liver.example.org")
    assert answer.headers["x-request-id"] == "edge-7"
    assert "strict-transport-security" in answer.headers


def test_a_ledger_that_does_not_answer_lets_nobody_in(make, behind):
    answer = make(Users(problem=UnavailableError("the ledger does not answer"))).asked("GET", "/info/", Role.ADMIN)
    assert (answer.status_code, answer.json()["detail"]) == (503, "the ledger does not answer")
    assert not behind.reached
    answer = make(Users(problem=TooManyLoginsError("wait", 7))).asked("GET", "/info/", Role.ADMIN)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


def test_an_error_that_nobody_foresaw_tells_the_client_its_id_only(make, monkeypatch, caplog):
    async def broken(*_):
        raise RuntimeError("Doe^Jane")

    made = make()
    monkeypatch.setattr(made.guard, "_app", broken)
    answer = made.asked("GET", "/info/", Role.ADMIN, headers={"X-Request-ID": "here"})
    assert (answer.status_code, answer.json()) == (
        500, {"detail": "internal error; request ID here"},
    )  # fmt: skip
    assert "Doe" not in caplog.text
    assert "unforeseen error: RuntimeError (" in caplog.text


def test_an_answer_that_breaks_off_has_no_end(make, monkeypatch):
    async def breaks_off(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    made, sent = make(), []
    monkeypatch.setattr(made.guard, "_app", breaks_off)

    async def send(message):
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/healthz", "query_string": b"", "headers": [], "scheme": "http"}
    asyncio.run(made.guard(scope, None, send))
    assert sent == ["http.response.start"]


def test_web_sockets_are_closed_and_the_start_passes(make, behind):
    made, sent = make(), []

    async def send(message):
        sent.append(message)

    asyncio.run(made.guard({"type": "websocket", "path": "/info/"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
    asyncio.run(made.guard({"type": "lifespan"}, None, send))
    assert behind.reached == ["lifespan"]


def test_what_administrators_start_is_noted(make, behind):
    made = make()
    assert made.asked("POST", "/train/liver_tumor", Role.ADMIN, json={}).status_code == 200
    assert made.asked("GET", "/train/", Role.ADMIN).status_code == 200
    behind.status = 409
    assert made.asked("DELETE", "/train/", Role.ADMIN).status_code == 409
    assert made.noted == [("training started", "user-admin", "192.0.2.7", {"model": "liver_tumor"})]


def test_what_annotators_change_beside_labels_is_noted(make, behind):
    made, info = make(), {"info": '{"contrast": "late"}'}
    assert made.asked("PUT", "/datastore/image/info?image=a", Role.ANNOTATOR, data=info).status_code == 200
    assert made.asked("PUT", "/datastore/label/info?label=a&tag=final", Role.ANNOTATOR, data=info).status_code == 200
    assert made.asked("POST", "/proxy/dicom/studies", Role.ANNOTATOR, content=b"x").status_code == 200
    assert [(kind, caller, detail) for kind, caller, _, detail in made.noted] == [
        ("image described", "user-annotator", {"image": "a"}),
        ("label described", "user-annotator", {"label": "a", "tag": "final"}),
        ("sent to the PACS", "user-annotator", {"path": "studies"}),
    ]


@pytest.mark.parametrize(("role", "status"), [(Role.ANNOTATOR, 200), (None, 415)])
def test_a_form_under_the_type_of_the_request_before(make, behind, role, status):
    """As MONAI Label's Python client sends it once it is logged in, and as no page of another server can."""
    content, _ = encode_multipart_formdata({"files": ("a.nii.gz", NIFTI)})
    made = make(logins=Users(are_needed=role is not None))
    options = {"content": content, "headers": {"Content-Type": "application/json"}}
    answer = made.asked("PUT", "/session/", role, base="http://127.0.0.1", **options)
    assert answer.status_code == status, answer.text
    assert [names for _, _, names, _ in behind.reached] == ([["files"]] if role else [])
