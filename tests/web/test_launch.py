import http.server
import re
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from lib.errors import BadInputError, LiverLoopError, NotFoundError, SettingsError, StorageError, UnavailableError
from lib.web.launch import (
    announcement,
    check_address,
    check_app,
    check_conf,
    check_studies,
    is_loopback,
    server_url,
    wait_until_ready,
)
from tests.dicomweb.bad_pacs import BadPacs, says
from tests.dicomweb.certificates import self_signed

# Nobody may create files there, not even an administrator.
UNWRITABLE = Path("/sys")


@contextmanager
def web_server(status, context=None):
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}", seen
        server.shutdown()


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "main.py").write_text("")
    (folder / "app.yaml").write_text("name: Test\n")
    return folder


def test_a_free_port_is_accepted(free_port):
    check_address("127.0.0.1", free_port)
    check_address("localhost", free_port)


def test_a_taken_port_is_named():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(
            BadInputError, match=rf"^port {port} on 127\.0\.0\.1 is taken by another program; .*--port$"
        ):
            check_address("127.0.0.1", port)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(BadInputError, match=f"--port {port} is not a port; choose one from 1 to 65535"):
        check_address("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_another_machines_address_is_refused(host, free_port):
    with pytest.raises(BadInputError, match=f"--host {host} is not an address of this machine"):
        check_address(host, free_port)


@pytest.mark.parametrize("host", ["no..host", "x" * 64])
def test_a_name_that_no_machine_can_have_is_refused(host, free_port):
    with pytest.raises(BadInputError, match=f"--host '{host}' is not the name of a machine; use 127.0.0.1"):
        check_address(host, free_port)


def test_an_app_folder_is_made_absolute(app, monkeypatch):
    monkeypatch.chdir(app.parent)
    assert check_app(Path("app")) == app.resolve()


@pytest.mark.parametrize("name", ["main.py", "app.yaml"])
def test_an_incomplete_app_says_what_is_missing(app, name):
    (app / name).unlink()
    with pytest.raises(NotFoundError, match=rf"is not an app: it has no {name}; give a folder such as"):
        check_app(app)


def test_a_missing_app_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"the app folder .*nowhere does not exist"):
        check_app(tmp_path / "nowhere")


def test_conf_is_validated_with_the_app(app):
    check_conf(app, [("training.max_epochs", "3")])
    with pytest.raises(SettingsError, match="unknown key bogus"):
        check_conf(app, [("bogus", "1")])
    with pytest.raises(SettingsError, match=r"--conf training\.max_epochs is given twice; keep one"):
        check_conf(app, [("training.max_epochs", "3"), ("training.max_epochs", "4")])


def test_a_studies_folder_is_made_absolute_and_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert check_studies(tmp_path.name, tmp_path) == str(tmp_path.resolve())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("studies", ["127.0.0.1:8042/dicom-web", "pacs.example/dicom-web", "pacs:8042"])
def test_the_address_of_a_pacs_without_its_scheme(tmp_path, studies):
    message = f"the studies folder {studies} does not exist; make it or correct --studies; the address of a PACS "
    with pytest.raises(NotFoundError, match=re.escape(f"{message}begins with http:// or https://")):
        check_studies(studies, tmp_path)


def test_a_missing_studies_folder_is_not_made(tmp_path):
    with pytest.raises(NotFoundError, match=r"the studies folder .*typo does not exist; make it or correct --studies"):
        check_studies(str(tmp_path / "typo"), tmp_path)
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("studies", ["", " "])
def test_an_empty_text_is_not_the_current_folder(studies):
    with pytest.raises(BadInputError, match=r"^--studies is empty; give the folder that holds the images$"):
        check_studies(studies, Path())


def test_a_file_is_not_a_studies_folder(tmp_path):
    (tmp_path / "ct.nii.gz").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"ct\.nii\.gz is a file; give the folder"):
        check_studies(str(tmp_path / "ct.nii.gz"), tmp_path)


@pytest.mark.skipif(not UNWRITABLE.is_dir(), reason="needs a folder that even root can't write")
def test_an_unwritable_studies_folder_is_refused():
    with pytest.raises(StorageError, match=r"the studies folder /sys can't be written \(.+\); labels are kept in it"):
        check_studies(str(UNWRITABLE), Path())


def test_a_pacs_is_asked_with_the_login(app, monkeypatch):
    monkeypatch.setenv("LIVERLOOP_PACS_USER", "reader")
    monkeypatch.setenv("LIVERLOOP_PACS_PASSWORD", "secret")
    with BadPacs(says([])) as pacs:
        assert check_studies(f"{pacs.url}/", app) == pacs.url
    ((_, path, headers),) = pacs.requests
    assert path.startswith("/dicom-web/series?")
    assert headers["Authorization"] == "Basic cmVhZGVyOnNlY3JldA=="
    assert sorted(path.name for path in app.iterdir()) == ["app.yaml", "main.py"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"refuses us \(HTTP 401\): it wants a login; set LIVERLOOP_PACS_USER and LIVERLOOP_PACS_PASSWORD"),
        (404, "has no DICOMweb service at this address; give the root"),
    ],
)
def test_a_pacs_that_refuses_is_named(app, status, message):
    with BadPacs(says("", status)) as pacs, pytest.raises(LiverLoopError, match=message):
        check_studies(pacs.url, app)


def test_a_silent_pacs_is_named_unless_it_was_there_before(app, free_port):
    url = f"http://127.0.0.1:{free_port}/dicom-web"
    with pytest.raises(UnavailableError, match=rf"the PACS at 127.0.0.1:{free_port} can't be reached"):
        check_studies(url, app)
    folder = app.parent / "work"
    (folder / "ledger").mkdir(parents=True)
    (folder / "ledger" / "pacs").write_text(url)
    assert check_studies(url, app, [("pacs.folder", str(folder))]) == url


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_loopback_is_told_from_the_network(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("ct.example", "http://ct.example:8000"),
    ],
)
def test_the_address_to_open(host, url):
    assert server_url(host, 8000) == url
    assert server_url(host, 8000, tls=True) == url.replace("http", "https")


def test_the_announcement_counts_images_once_and_says_what_to_enter(tmp_path):
    for name in ("a.nii.gz", "b.nii", "c.nrrd", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    text = announcement("http://127.0.0.1:8000", str(tmp_path))
    assert text.startswith("LiverLoop is ready at http://127.0.0.1:8000\n")
    assert f"{tmp_path} (3 images)" in text
    assert "MONAI Label server: http://127.0.0.1:8000" in text
    assert "scripts/serve --studies DIR" in text
    assert "  login      nobody is asked to log in\n" in text
    told = announcement("https://127.0.0.1:8000", "http://pacs/dicom-web", "as ann")
    assert "https://127.0.0.1:8000/ohif/" in told
    assert "  login      as ann\n" in told


def test_on_a_network_its_name_is_to_be_used():
    for host, address in (("0.0.0.0", "127.0.0.1"), ("::", "::1")):
        line = f"  network    on other machines, this one's name in place of {address}"
        assert line in announcement("https://x", "http://pacs/dicom-web", host=host).splitlines()
    for host in ("127.0.0.1", "labels.example.org"):
        assert "network" not in announcement("https://x", "http://pacs/dicom-web", host=host)


@pytest.mark.parametrize("status", [200, 404])
def test_readiness_is_seen(status):
    with web_server(status) as (url, seen):
        assert wait_until_ready(url, patience_s=30)
        assert seen == [("/healthz", None)]


def test_a_server_that_is_not_ready_is_asked_again():
    with web_server(503) as (url, seen):
        assert not wait_until_ready(url, patience_s=0.1, pause_s=0.01)
        assert len(seen) > 1


def test_readiness_by_https_whoever_vouches_for_the_certificate(tmp_path):
    _, context = self_signed(tmp_path)
    with web_server(200, context) as (url, seen):
        assert wait_until_ready(url, patience_s=30)
        assert seen == [("/healthz", None)]


def test_waiting_ends(free_port):
    assert not wait_until_ready(f"http://127.0.0.1:{free_port}", patience_s=0.05, pause_s=0.01)
