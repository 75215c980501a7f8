"""The proxy to the PACS: what gets through on the way there and back, and what never does."""

import base64
import http.client
import json
import logging
import socket
import threading

import pytest
import requests
from dicomweb_client.web import DICOMwebClient
from fastapi import FastAPI
from monailabel.endpoints.user import auth

from lib.access.roles import Role
from lib.dicom_seg.source import source_of
from lib.dicom_seg.write import Provenance, write_seg
from lib.dicomweb.forwarding import Forwarder
from lib.dicomweb.settings import PacsSettings
from lib.labels import LIVER, TUMOR
from lib.phantom import make_phantom
from lib.web.guard.callers import Caller
from lib.web.pacs_proxy import install_proxy
from tests.dicomweb.bad_pacs import BadPacs, says
from tests.orthanc import slices_of
from tests.web.proxied import LOGIN, MULTIPART, STUDY, detail, quick, server_for, wait_for
from tests.web.serving import ask, serving

BASIC = "Basic " + base64.b64encode("annotator:correct horse ü".encode()).decode()


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(5, shape=(32, 32, 6), tumors=1)


@pytest.fixture
def series(orthanc, phantom):
    """A CT in the PACS."""
    found = slices_of(phantom.image, "1.2.3", "20240501", "P1", "portal venous")
    orthanc.fill(found)
    return found


@pytest.fixture
def told():
    return []


@pytest.fixture
def root(orthanc, told):
    """The proxy's address before a real PACS."""
    with server_for(PacsSettings(orthanc.url, **LOGIN), told) as port:
        yield f"http://127.0.0.1:{port}/proxy/dicom"


def direct(orthanc, path, **headers):
    return requests.get(orthanc.url + path, auth=(LOGIN["user"].encode(), LOGIN["password"].encode()), headers=headers)


def test_queries_keep_their_conditions(root, series, orthanc):
    other = slices_of(make_phantom(6, shape=(16, 16, 2)).image, "1.2.4", "20240502", "P2", "arterial")
    orthanc.fill(other)
    for query, patients in (
        ("", {"P1", "P2"}),
        ("?PatientID=P2", {"P2"}),
        ("?StudyDate=20240501-20240501", {"P1"}),
        ("?PatientName=*%50%32", {"P2"}),
        ("?00100020=P%31&limit=5&offset=0", {"P1"}),
    ):
        answer = requests.get(f"{root}/studies{query}", headers={"Accept": "application/dicom+json"})
        assert answer.headers["Content-Type"].startswith("application/dicom+json")
        assert {study["00100020"]["Value"][0] for study in answer.json()} == patients, query


def test_links_lead_back_through_the_proxy(root, series, orthanc):
    path = f"/studies/1.2.3/series/{series[0].SeriesInstanceUID}/metadata"
    for encoding in ("identity", "gzip", "br, gzip"):
        answer = requests.get(root + path, headers={"Accept": "application/dicom+json", "Accept-Encoding": encoding})
        assert orthanc.url not in answer.text
        expected = direct(orthanc, path).text.replace(f"{orthanc.url}/", "/proxy/dicom/")
        assert answer.json() == json.loads(expected)
    link = answer.json()[0]["7FE00010"]["BulkDataURI"]
    pixels = requests.get(root.removesuffix("/proxy/dicom") + link)
    assert pixels.status_code == 200
    assert series[0].PixelData in pixels.content or any(one.PixelData in pixels.content for one in series)


@pytest.mark.parametrize(
    ("resource", "accept", "kind"),
    [
        ("", 'multipart/related; type="application/dicom"', "multipart/related"),
        ("/frames/1", 'multipart/related; type="application/octet-stream"', "multipart/related"),
        ("/rendered", "image/png", "image/png"),
        ("/rendered?window=40,400,linear", "image/jpeg", "image/jpeg"),
    ],
)
def test_objects_frames_and_pictures_come_as_the_pacs_gives_them(root, series, orthanc, resource, accept, kind):
    one = series[2]
    path = f"/studies/1.2.3/series/{one.SeriesInstanceUID}/instances/{one.SOPInstanceUID}{resource}"
    asked = {"Accept": accept, "Accept-Encoding": "identity"}
    answer, expected = requests.get(root + path, headers=asked), direct(orthanc, path, **asked)
    assert answer.status_code == expected.status_code == 200
    assert answer.headers["Content-Type"].startswith(kind)
    if kind == "multipart/related":  # each answer has a boundary of its own
        assert len(answer.content) == len(expected.content)
        assert one.PixelData in answer.content
    else:
        assert answer.content == expected.content
        assert answer.headers["Content-Length"] == str(len(answer.content))
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox"


def test_storing_tells_of_segs_only(root, series, phantom, orthanc, told):
    client = DICOMwebClient(root)
    client.store_instances(slices_of(phantom.image, "1.2.5", "20240501", "P5", "another"))
    assert len(list(orthanc.pacs().find_series(study_uid="1.2.5"))) == 1
    assert told == []
    seg = write_seg(phantom.label, source_of(series), {"liver": LIVER, "tumor": TUMOR}, Provenance("of a viewer"))
    answer = client.store_instances([seg])
    assert answer.ReferencedSOPSequence[0].RetrieveURL.startswith("/proxy/dicom/studies/1.2.3/")
    assert [found.description for found in orthanc.pacs().find_series("SEG")] == ["of a viewer"]
    wait_for(lambda: told == [("1.2.3", {})])
    client.store_instances([seg], study_instance_uid="1.2.3")
    wait_for(lambda: told == [("1.2.3", {})] * 2)


def test_a_failing_hook_does_not_harm_what_is_stored(series, phantom, orthanc, caplog):
    def fail(*_):
        raise ValueError("the disk is full")

    seg = write_seg(phantom.label, source_of(series), {"liver": LIVER, "tumor": TUMOR}, Provenance("of a viewer"))
    with server_for(PacsSettings(orthanc.url, **LOGIN), on_stored=fail) as port:
        DICOMwebClient(f"http://127.0.0.1:{port}/proxy/dicom").store_instances([seg])
        assert len(list(orthanc.pacs().find_series("SEG"))) == 1
        wait_for(lambda: "a SEG stored by a viewer is not looked at yet: the disk is full" in caplog.text)


def test_who_is_logged_in_is_told_with_what_they_stored(series, phantom, orthanc):
    seg = write_seg(phantom.label, source_of(series), {"liver": LIVER, "tumor": TUMOR}, Provenance("of a viewer"))
    told = []
    settings = PacsSettings(orthanc.url, **LOGIN)
    with server_for(settings, told, caller=Caller("ann", Role.ANNOTATOR)) as port:
        DICOMwebClient(f"http://127.0.0.1:{port}/proxy/dicom").store_instances([seg])
        wait_for(lambda: told == [("1.2.3", {str(seg.SOPInstanceUID): "ann"})])


@pytest.fixture(scope="module")
def bad():
    """A PACS that must not be asked, and the port of the proxy before it."""
    with BadPacs(says([])) as pacs, server_for(quick(pacs)) as port:
        yield pacs, port


@pytest.mark.parametrize(
    "target",
    [
        "/proxy/dicom/..%2fsystem", "/proxy/dicom/..%2Fsystem", "/proxy/dicom/../system",
        "/proxy/dicom/studies/../../system",
        "/proxy/dicom/studies/..%2f..%2fsystem", "/proxy/dicom/studies/%2e%2e/system", "/proxy/dicom/studies/.%2e/x",
        "/proxy/dicom//studies", "/proxy/dicom/studies//1.2", "/proxy/dicom//evil.example/studies",
        "/proxy/dicom/@evil.example/studies", "/proxy/dicom/studies@evil.example",
        "/proxy/dicom/studies%40evil.example",
        "/proxy/dicom/studies%5c..%5csystem", "/proxy/dicom/studies\\..\\system",
        "/proxy/dicom/http://evil.example/studies", "/proxy/dicom/http:%2f%2fevil.example", "/proxy/dicom/studies%00",
        "/proxy/dicom/studies%0d%0aX-Injected:1", "/proxy/dicom/studies%23", "/proxy/dicom/studies%3fx=1",
        "/proxy/dicom/studies;x=1", "/proxy/dicom/%252e%252e/system", "/proxy/dicom/studies/%C3%BC",
        "/proxy/dicom/", "/proxy/dicom", "/proxy/", "/proxy/dicom/servers", "/proxy/dicom/servers/other/get",
        "/proxy/dicom/wado/studies", "/proxy/dicom/qido/studies", "/proxy/system", "/proxy/dicomx/studies",
        "/proxy/dicom/studies/" + "1" * 9000, "/proxy/../proxy/dicom/system",
    ],
)  # fmt: skip
def test_no_path_leaves_the_dicomweb_root(target, bad):
    pacs, port = bad
    for method in ("GET", "POST"):
        reply = ask(port, method, target, b"" if method == "POST" else None, Content_Type=MULTIPART)
        assert reply.status in {400, 404, 414}, reply
    assert pacs.requests == []


@pytest.mark.parametrize("name", ["Accept", "Accept_Charset", "Range"])
def test_headers_that_are_none(name, bad):
    pacs, port = bad
    reply = ask(port, "GET", STUDY, **{name: "\xe9"})
    assert reply.status == 400
    assert detail(reply) == f"the header {name.lower().replace('_', '-')} holds characters that must be encoded"
    assert ask(port, "POST", "/proxy/dicom/studies", b"x", Content_Type=f"{MULTIPART}\xe9").status == 400
    assert pacs.requests == []


@pytest.mark.parametrize("query", ["x=1#y", "x=" + "1" * 9000, "x=\xfc", "x=1\x7f"])
def test_queries_that_are_none(query, bad):
    pacs, port = bad
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {STUDY}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
        assert b" 400 " in connection.recv(1000).partition(b"\r\n")[0]
    assert pacs.requests == []


def test_paths_and_queries_arrive_as_they_were_sent():
    with BadPacs(says([])) as pacs, server_for(quick(pacs)) as port:
        for sent, expected in (
            ("studies", "studies"),
            ("studies/", "studies"),
            ("studies?PatientName=M%C3%BCller*&includefield=00081030%2C00080060", None),
            ("instances/1.2/frames/1,2", None),
            ("instances/1.2/frames/1%2C2", "instances/1.2/frames/1,2"),
            ("studies/1.2/series/1.3/instances/1.4/bulkdata/00091010/1", None),
            ("bulkdata/ab_-~.1", None),
            ("studies?next=http://other.example/@x", None),
        ):
            assert ask(port, "GET", f"/proxy/dicom/{sent}").status == 200, sent
            assert pacs.requests[-1][1] == f"/dicom-web/{expected or sent}"


def test_a_query_with_a_body_is_sent_without_it():
    with BadPacs(says([])) as pacs, server_for(quick(pacs)) as port:
        assert ask(port, "GET", STUDY, b"x" * 100, Content_Type="text/plain").status == 200
        assert "content-length" not in {name.lower() for name in pacs.requests[-1][2]}


@pytest.mark.parametrize(("method", "role"), [("GET", "monailabel-user"), ("POST", "monailabel-annotator")])
def test_where_monai_label_asks_for_a_login_so_does_the_proxy(method, role, monkeypatch):
    """Its variables must be set before it is imported; here the user it finds is another one."""
    user = auth.User(username="x", roles=[])
    app = FastAPI()
    app.dependency_overrides[auth.get_current_user] = lambda: user
    monkeypatch.setattr(auth.settings, "MONAI_LABEL_AUTH_ENABLE", True)
    with BadPacs(says([])) as pacs:
        install_proxy(app, Forwarder(quick(pacs)))
        with serving(app) as port:

            def status():
                body = b"" if method == "POST" else None
                return ask(port, method, "/proxy/dicom/studies", body, Content_Type=MULTIPART).status

            assert (status(), pacs.requests) == (403, [])
            user.roles.append(role)
            assert (status(), len(pacs.requests)) == (200, 1)


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "HEAD"])
def test_nothing_is_changed_or_deleted(method, bad):
    pacs, port = bad
    reply = ask(port, method, STUDY)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, POST")
    assert method == "HEAD" or detail(reply) == (
        f"the PACS is open for GET and POST here, not for {method}; change or delete in the PACS itself"
    )
    assert pacs.requests == []


@pytest.mark.parametrize(
    ("path", "kind", "reason"),
    [
        ("studies/1.2/series", MULTIPART, "nothing can be stored at 'studies/1.2/series'"),
        ("studies/abc", MULTIPART, "nothing can be stored at 'studies/abc'"),
        ("series", MULTIPART, "nothing can be stored at 'series'"),
        ("studies", "application/json", "DICOM is stored as multipart/related, not as 'application/json'"),
    ],
)
def test_only_objects_can_be_sent_and_only_to_studies(path, kind, reason, bad):
    pacs, port = bad
    reply = ask(port, "POST", f"/proxy/dicom/{path}", b"x", Content_Type=kind)
    assert reply.status == 400
    assert detail(reply).startswith(reason)
    assert pacs.requests == []


@pytest.mark.parametrize(
    ("login", "authorization"),
    [({}, None), (LOGIN, BASIC), ({"token": "t0ken-of-ours"}, "Bearer t0ken-of-ours")],
)
def test_only_the_login_of_the_settings_is_used_and_nobody_learns_it(login, authorization):
    answer = says([], Set_Cookie="session=1", WWW_Authenticate="Basic", Server="Secret 1.0", X_Echo=authorization or "")
    with BadPacs(answer) as pacs, server_for(quick(pacs, **login)) as port:
        reply = ask(port, "GET", STUDY, Authorization="Bearer of-the-browser", Cookie="a=b", X_Forwarded_For="1.2.3.4",
                    Accept="application/dicom+json")  # fmt: skip
        sent = {name.lower(): value for name, value in pacs.requests[0][2].items()}
        assert sent.get("authorization") == authorization
        assert sent["accept"] == "application/dicom+json"
        assert sent["host"] == pacs.name
        assert not {"cookie", "x-forwarded-for"} & sent.keys()
        assert not {"set-cookie", "www-authenticate", "x-echo"} & reply.headers.keys()
        assert "Secret" not in reply.headers["server"]


def test_refused_objects_are_told_as_the_pacs_tells_them():
    refused = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0x0110]}}]}}
    with BadPacs(says(refused, 409)) as pacs, server_for(quick(pacs)) as port:
        reply = ask(port, "POST", "/proxy/dicom/studies", b"--b--", Content_Type=MULTIPART)
        assert (reply.status, json.loads(reply.body)) == (409, refused)


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b'{"00081199": {"Value": [{}]}}', b'{"00081199": 1}'])
def test_an_answer_to_storing_that_tells_nothing_is_passed_on(body, told):
    with BadPacs(says(body)) as pacs, server_for(quick(pacs), told) as port:
        reply = ask(port, "POST", "/proxy/dicom/studies", b"--b--", Content_Type=MULTIPART)
        assert (reply.status, reply.body, told) == (200, body, [])


def test_answers_come_while_the_pacs_still_sends():
    gate = threading.Event()

    def slowly(request):
        request.send_response(200)
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Length", "20")
        request.end_headers()
        request.wfile.write(b"0123456789")
        assert gate.wait(60)
        request.wfile.write(b"0123456789")

    with BadPacs(slowly) as pacs, server_for(quick(pacs)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", STUDY)
        answer = connection.getresponse()
        assert answer.read(10) == b"0123456789"  # before the rest exists
        gate.set()
        assert answer.read() == b"0123456789"
        connection.close()


def test_what_is_stored_goes_on_while_it_still_comes():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        arrived, received = threading.Event(), []

        def answer():
            connection, _ = listener.accept()
            with connection:
                data = b""
                while not data.endswith(b"second"):
                    data += connection.recv(65536)
                    if data.endswith(b"first"):
                        arrived.set()
                received.append(data)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")

        threading.Thread(target=answer, daemon=True).start()
        with server_for(PacsSettings(f"http://{host}/dicom-web")) as port:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.putrequest("POST", "/proxy/dicom/studies")
            connection.putheader("Content-Type", MULTIPART)
            connection.putheader("Content-Length", "11")
            connection.endheaders()
            connection.send(b"first")
            assert arrived.wait(60)  # at the PACS, before the rest exists
            connection.send(b"second")
            assert connection.getresponse().read() == b"{}"
            connection.close()
        assert b"content-length: 11\r\n" in received[0].lower()  # no chunks, which some PACS don't take
        assert b"transfer-encoding" not in received[0].lower()


def test_without_a_pacs_there_is_nothing_behind_it():
    with server_for(None) as port:
        reply = ask(port, "GET", "/proxy/dicom/qido/studies")
        assert (reply.status, detail(reply)) == (
            404, "this server has a folder of files; start it with --studies http://HOST:PORT/dicom-web to work on a "
            "PACS",
        )  # fmt: skip


def test_what_is_searched_for_is_not_logged(caplog):
    caplog.set_level(logging.DEBUG)
    with BadPacs(says([])) as pacs, server_for(quick(pacs)) as port:
        assert ask(port, "GET", "/proxy/dicom/studies?PatientName=Zyx987*").status == 200
    assert "/proxy/dicom/studies" in caplog.text
    assert "Zyx987" not in caplog.text
