"""Sessions over HTTP: images that clients send, under ids and names of ours."""

import gzip
import io
import json
import zipfile
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib.access.roles import Role
from lib.errors import StorageError
from lib.settings import LimitSettings
from lib.volume import Volume
from lib.volume_io import write_image
from lib.web import session_requests, sessions
from lib.web.answers import install_answers
from lib.web.guard.callers import SCOPE_KEY, Caller
from lib.web.session_requests import install_sessions
from lib.web.sessions import Sessions

DICOM = bytes(128) + b"DICM" + bytes(600)
UNKNOWN = "11111111-2222-3333-4444-555555555555"


def image_bytes(folder, suffix=".nii.gz"):
    path = folder / f"made{suffix}"
    write_image(path, Volume(np.full((4, 5, 6), -1000, np.int16), np.eye(4)))
    content = path.read_bytes()
    path.unlink()
    return content


def zipped(*entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


class Site:
    """A server with sessions in a folder, a clock that can be set, and somebody who asks."""

    def __init__(self, folder, **limits):
        self.folder, self.now, self.caller = folder / "sessions", 1_000_000.0, Caller(None, Role.ADMIN)
        self.sessions = Sessions(self.folder, 3600, LimitSettings(**limits), lambda: self.now)
        app = FastAPI()
        install_sessions(app)
        install_answers(app)

        async def asked(scope, receive, send):
            scope[SCOPE_KEY] = self.caller
            await app(scope, receive, send)

        self.client = TestClient(asked)

    def send(self, *files, **query):
        parts = [("files", (name, content)) for name, content in files]
        return self.client.put("/session/", params=query, files=parts, data={"params": "{}"})

    def left(self):
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def make_site(tmp_path, monkeypatch):
    def make(**limits):
        site = Site(tmp_path, **limits)
        monkeypatch.setattr(session_requests, "_sessions", lambda: site.sessions)
        return site

    return make


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_an_image_is_kept_under_a_name_of_ours(site, tmp_path, suffix):
    content = image_bytes(tmp_path, suffix)
    answer = site.send(("../../sitecustomize.py", content)).json()
    (name,) = site.left()
    assert answer["session_id"] == name
    assert answer["session_info"] == {
        "name": name, "image": f"liverloop-image{suffix}", "meta": {}, "create_ts": 1_000_000,
        "last_access_ts": 1_000_000, "expiry": 3600,
    }  # fmt: skip
    assert site.client.get(f"/session/{name}").json() == answer["session_info"]
    download = site.client.get(f"/session/{name}", params={"image": True})
    assert download.content == content
    assert f'filename="liverloop-image{suffix}"' in download.headers["content-disposition"]
    session = site.sessions.get_session(name)
    assert session.image == str(site.folder / name / f"liverloop-image{suffix}")
    assert site.client.delete(f"/session/{name}").status_code == 200
    assert site.left() == []
    assert site.client.get(f"/session/{name}").status_code == 404


def test_a_series_is_kept_as_a_folder_of_numbers(site):
    answers = [
        site.send(("a", DICOM), ("a", DICOM), ("/etc/x", DICOM)),
        site.send(("x.tar", zipped(("a", DICOM), ("b", DICOM), ("c", DICOM), ("d", b"text"))), uncompress=True),
    ]
    for answer in answers:
        name = answer.json()["session_id"]
        folder = site.folder / name / "liverloop-series"
        assert site.sessions.get_session(name).image == str(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["1.dcm", "2.dcm", "3.dcm"]
        reply = site.client.get(f"/session/{name}", params={"image": True})
        assert reply.status_code == 400
        assert reply.json()["detail"] == "the image of this session is a series of DICOM files, which are not sent back"


@pytest.mark.parametrize(
    ("files", "query", "expected"),
    [
        ([b"#!/bin/sh"], {}, "the file sent is neither NIfTI, NRRD nor DICOM by its content; export the image as one"),
        ([b""], {}, "the file sent is neither NIfTI, NRRD nor DICOM by its content; export the image as one"),
        ([DICOM, b"x"], {}, "file 2 of 2 that were sent is no DICOM file; send one image, or one DICOM series"),
        ([zipped(("a", DICOM))], {}, "the file sent is an archive; send it with uncompress=true"),
        ([DICOM], {"uncompress": True}, "the archive is not a .zip, .tar or .tar.gz by its content; pack the files"),
        ([DICOM, DICOM], {"uncompress": True}, "2 files were sent with uncompress=true; send one archive"),
        ([zipped(("../a", DICOM))], {"uncompress": True}, "entry 1 of the archive has a name that leads out of its"),
        ([DICOM], {"expiry": -1}, "expiry = -1 can't be used; expected 0 to 86400 seconds, 0 for the server's choice"),
        ([DICOM], {"expiry": 86401}, "expiry = 86401 can't be used; expected 0 to 86400 seconds, 0 for the server's"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(site, files, query, expected):
    answer = site.send(*[("image.nii.gz", content) for content in files], **query)
    assert (answer.status_code, site.left()) == (400, [])
    assert answer.json()["detail"].startswith(expected)


def test_the_header_of_an_image_is_checked_at_once(make_site, tmp_path):
    site = make_site(voxels=100)
    answer = site.send(("x", image_bytes(tmp_path)))
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("the image sent: shape (4, 5, 6) is larger than any CT we take")
    assert site.left() == []


@pytest.mark.parametrize(
    ("limits", "count", "expected"),
    [
        ({"archive_files": 2}, 3, "more than 2 files were sent (limits.archive_files); send one series"),
        ({"upload_mb": 0.002}, 3, "the files sent have more than 0 MB (limits.upload_mb); send one series, or"),
        ({"sessions_mb": 0.001}, 2, "the image sent has 0 MB and sessions may have 0 MB in all (limits.sessions_mb)"),
    ],
)
def test_more_than_is_taken_is_refused(make_site, limits, count, expected):
    site = make_site(**limits)
    answer = site.send(*[("a", DICOM)] * count)
    assert (answer.status_code, site.left()) == (400, [])
    assert answer.json()["detail"].startswith(expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"data": {"files": "x"}}, "the request holds no files; send them as multipart/form-data, each named 'files'"),
        ({"content": b"x"}, "the request holds no files; send them as multipart/form-data, each named 'files'"),
        ({"files": {"file": ("a", DICOM)}}, "the form holds a file that is not named 'files'"),
        ({"files": {"x": (None, "y")}}, "the form holds no file named 'files'; send the image, or the DICOM files of"),
        ({"files": {"x": (None, "y" * 70_000)}}, "the form's fields have more than 65,536 bytes"),
        (
            {"content": b"--b\r\nX\r\n\r\n", "headers": {"content-type": "multipart/form-data; boundary=b"}},
            "the form can't be read: it is no valid multipart/form-data",
        ),
        (
            {"content": b"--b\r\nX: " + b"y" * 5000, "headers": {"content-type": "multipart/form-data; boundary=b"}},
            "the form can't be read: it is no valid multipart/form-data",
        ),
        (
            {
                "content": b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + DICOM,
                "headers": {"content-type": "multipart/form-data; boundary=b"},
            },
            "the form breaks off before its end; send it again",
        ),
    ],
)
def test_forms_that_are_none_are_refused(site, options, expected):
    answer = site.client.put("/session/", **options)
    assert (answer.status_code, site.left()) == (400, [])
    assert answer.json()["detail"].startswith(expected)


def test_a_full_disk_is_said_to_be_full(site, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lib.web.sent_files.Path.open", full)
    answer = site.send(("a", DICOM))
    monkeypatch.undo()
    assert (answer.status_code, site.left()) == (507, [])
    assert answer.json()["detail"].endswith("the disk is full; free space or choose another folder")


def test_a_session_that_can_not_be_noted_is_not_made(site, monkeypatch):
    def full(*_, **__):
        msg = "can't write x: the disk is full"
        raise StorageError(msg)

    monkeypatch.setattr(sessions, "atomic_write", full)
    answer = site.send(("a", DICOM))
    assert (answer.status_code, site.left()) == (507, [])


@pytest.mark.parametrize(
    "name", ["..", "../x", "%2e%2e", "a/b", UNKNOWN, UNKNOWN.upper(), f"{UNKNOWN}\n", "", "{0}/../{0}", "x" * 300]
)
def test_ids_of_another_form_name_nothing(site, name):
    made = site.send(("a", DICOM)).json()["session_id"]
    (site.folder / "x").mkdir()
    path = name.replace("{0}", made)
    assert site.sessions.get_session(path) is None
    site.sessions.remove_session(path)
    for method in ("GET", "DELETE"):
        assert site.client.request(method, f"/session/{quote(path, safe='')}").status_code in {404, 405}
    assert site.left() == sorted([made, "x"])


def test_an_unknown_session_is_said_to_be_gone(site):
    expected = f"there is no session '{UNKNOWN}'; it may have expired, send the image again"
    assert site.client.get(f"/session/{UNKNOWN}").json() == {"detail": expected}


# Files that somebody planted


def test_a_planted_note_leads_to_no_other_file(site, tmp_path):
    (tmp_path / "secret.nii.gz").write_bytes(b"secret")
    for number, name in enumerate(["", "liverloop-image.nii.gz"]):
        folder = site.folder / f"{number}{UNKNOWN[1:]}"
        folder.mkdir(parents=True)
        note = {"name": folder.name, "path": str(folder), "image": str(tmp_path / "secret.nii.gz"), "owner": None}
        note |= {"create_ts": 1, "last_access_ts": 2e9, "expiry": 10**9, "size": 1}
        (folder / "meta.info").write_text(json.dumps(note))
        if name:
            (folder / name).symlink_to(tmp_path / "secret.nii.gz")
        assert site.sessions.get_session(folder.name) is None
        assert site.client.get(f"/session/{folder.name}", params={"image": True}).status_code == 404


@pytest.mark.parametrize(
    "note", ["", "[]", "{}", "[" * 9000, '{"create_ts": "x", "owner": 1}', "\xff", "null", '{"create_ts": 1e999}']
)
def test_a_damaged_note_is_no_session(site, note):
    name = site.send(("a", DICOM)).json()["session_id"]
    (site.folder / name / "meta.info").write_text(note, encoding="latin-1")
    assert site.sessions.get_session(name) is None
    assert site.sessions.remove_expired() == 1


def test_a_link_in_place_of_a_session_is_none(site, tmp_path):
    name = site.send(("a", DICOM)).json()["session_id"]
    (site.folder / UNKNOWN).symlink_to(site.folder / name)
    assert site.sessions.get_session(UNKNOWN) is None
    assert site.sessions.remove_expired() == 0
    assert sorted(site.left()) == sorted([name, UNKNOWN])


# How long, how many, whose


def test_sessions_expire_unless_they_are_used(site):
    first, second = (site.send(("a", DICOM), expiry=wish).json()["session_id"] for wish in (100, 80_000))
    site.now += 90
    assert site.client.get(f"/session/{first}", params={"update_ts": True}).status_code == 200
    site.now += 90
    assert site.client.get(f"/session/{first}").status_code == 200
    site.now += 11
    assert site.client.get(f"/session/{first}").status_code == 404
    assert site.sessions.remove_expired() == 1
    assert site.left() == [second]
    site.now += 3600  # the server's own limit counts
    assert site.sessions.get_session(second) is None


def test_the_longest_unused_go_where_there_are_too_many(make_site):
    site = make_site(sessions=2)
    first, second = (site.send(("a", DICOM)).json()["session_id"] for _ in range(2))
    site.now += 1
    site.sessions.get_session(first)
    third = site.send(("a", DICOM)).json()["session_id"]
    assert site.left() == sorted([first, third])
    assert second not in site.left()


def test_the_longest_unused_go_where_they_are_too_large(make_site):
    site = make_site(sessions_mb=0.002)
    names = []
    for _ in range(4):
        site.now += 1
        names.append(site.send(("a", DICOM)).json()["session_id"])
    assert site.left() == sorted(names[-2:])


def test_a_session_is_its_makers_alone(site):
    site.caller = Caller("anna", Role.ANNOTATOR)
    name = site.send(("a", DICOM)).json()["session_id"]
    site.caller = Caller("ben", Role.ADMIN)
    for method in ("GET", "DELETE"):
        answer = site.client.request(method, f"/session/{name}")
        assert answer.status_code == 404
        assert answer.json()["detail"].startswith("there is no session")
    site.caller = Caller("anna", Role.ANNOTATOR)
    assert site.client.delete(f"/session/{name}").status_code == 200


def test_what_a_killed_server_left_is_removed_after_a_day(site):
    site.send(("a", DICOM))
    left = site.folder / ".new-x"
    left.mkdir()
    site.now = left.stat().st_mtime + 1000
    site.sessions.remove_expired()
    assert left.exists()
    site.now += 86400
    site.sessions.remove_expired()
    assert site.left() == []


def test_sessions_may_be_switched_off(monkeypatch):
    app = FastAPI()
    install_sessions(app)
    install_answers(app)
    monkeypatch.setattr("monailabel.interfaces.utils.app.app_instance", lambda: SimpleNamespace(sessions=lambda: None))
    answer = TestClient(app).get(f"/session/{UNKNOWN}")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("sessions are switched off here (MONAI_LABEL_SESSIONS)")


def test_a_gzip_of_something_else_is_no_image(site):
    assert site.send(("a.nii.gz", gzip.compress(DICOM))).status_code == 400
