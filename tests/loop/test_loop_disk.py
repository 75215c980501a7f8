"""A full disk and a read-only one: a clear answer, nothing half-written, and work goes on once there is room."""

import hashlib

import pytest
import requests

from lib.settings import Settings
from lib.store import audit
from lib.store.ledger import Ledger
from lib.store.store import Store
from lib.volume_io import write_image
from tests.loop.kept_labels import KeptLabels
from tests.loop.prepared_server import PreparedServer
from tests.loop.running_server import make_app, wait_until
from tests.loop.savers import SHAPE, Cases, Journal, save
from tests.loop.studies import phantom
from tests.store.small_disk import SmallDisk

pytestmark = pytest.mark.server

_KIBI = 1024


@pytest.fixture
def disk(tmp_path):
    with SmallDisk(tmp_path / "disk", 16) as mounted:
        yield mounted


@pytest.fixture
def cases(disk):
    return Cases(disk.folder / "studies", 3)


class Annotator:
    """Saves one label after the other and keeps the journal."""

    def __init__(self, cases):
        self.cases = cases
        self.journal = Journal()
        self.number = 0

    def save(self, server, image):
        """Status and reason of one more label for an image."""
        self.number += 1
        with requests.Session() as session:
            answer = save(session, server.url, image, self.cases, "anna", self.number, self.journal)
        return answer.status_code, answer.json().get("detail", "")


def check_all(cases, settings=None):
    store = Store(cases.studies, settings or Settings())
    findings = audit.check(store)
    store.close()
    assert [finding for finding in findings if finding.kind is not audit.Kind.NO_VERSION] == []


def readable(server, image):
    """A label, the list of images and an image's history can be had."""
    path = server.client().download_label(image, "final")
    assert server.client().info()["datastore"]["total"] == 3
    assert server.ask("GET", "/datastore/?output=all").status == 200
    answer = server.ask("GET", f"/ledger/images/{image}/versions")
    assert answer.status == 200
    with open(path, "rb") as file:
        return file.read(), len(answer.reason)


def test_a_full_disk_is_told_and_survived(preparation, disk, cases, tmp_path):
    annotator = Annotator(cases)
    kept_at = f"sqlite:///{cases.studies}/ledger/ledger.sqlite"
    with PreparedServer(preparation, cases.studies, tmp_path / "run", app=make_app(tmp_path / "app")) as server:
        for image in cases.names:
            assert annotator.save(server, image) == (200, "")
        kept = KeptLabels(cases, kept_at)
        # However little is left, it ends at another step: the version's file, the ledger, what is shown.
        for left in (0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192):
            disk.fill(leave=left * _KIBI)
            status, reason = 200, ""
            while status == 200:
                for image in cases.names:
                    status, reason = annotator.save(server, image)
                    if status != 200:
                        break
            assert status == 507, reason
            assert "full" in reason
            kept.check(annotator.journal, shown=False)
            content, versions = readable(server, cases.names[0])
            assert versions == len(kept.history(cases.names[0]))
            assert annotator.journal.sent[hashlib.sha256(content).hexdigest()].image == cases.names[0]
            disk.make_room()
            for image in cases.names:
                assert annotator.save(server, image) == (200, "")
            kept.check(annotator.journal)
        kept.check_order(annotator.journal)
        kept.close()
        assert "Traceback" not in server.log()
    check_all(cases)


def test_other_work_on_a_full_disk_is_done_or_told(preparation, disk, cases, tmp_path):
    annotator = Annotator(cases)
    labelled, other, _ = cases.names
    with PreparedServer(preparation, cases.studies, tmp_path / "run", app=make_app(tmp_path / "app")) as server:
        assert annotator.save(server, labelled) == (200, "")
        disk.fill()
        for method, path, options in (
            ("POST", "/activelearning/random", {"json": {"client_id": "anna"}}),
            ("POST", f"/ledger/images/{labelled}/restore", {"json": {"number": 1, "client_id": "anna"}}),
            ("PUT", f"/datastore/image/info?image={labelled}", {"data": {"info": '{"a": 1}'}}),
            ("PUT", f"/datastore/label/info?label={labelled}&tag=final", {"data": {"info": '{"a": 1}'}}),
            ("POST", f"/ledger/images/{other}/exclude", {"json": {"reason": "other contrast", "client_id": "anna"}}),
        ):
            answer = server.ask(method, path, **options)
            if answer.status != 200:  # the ledger may still have a little room
                assert answer.status == 507, (path, answer)
                assert "full" in answer.reason
            assert readable(server, labelled)[1] == 1
        write_image(tmp_path / "another.nii.gz", phantom(77, SHAPE).image)
        with (tmp_path / "another.nii.gz").open("rb") as image:
            answer = server.ask("PUT", "/datastore/image?image=another", files={"file": ("another.nii.gz", image)})
        assert answer.status == 507, answer
        assert sorted(path.name for path in cases.studies.glob("*.nii.gz")) == [
            f"{name}.nii.gz" for name in cases.names
        ]
        assert "Traceback" not in server.log()
        disk.make_room()
        assert annotator.save(server, labelled) == (200, "")
    check_all(cases)


def test_a_label_that_can_not_be_withdrawn_stays(preparation, disk, cases, tmp_path):
    annotator = Annotator(cases)
    image = cases.names[0]
    with PreparedServer(preparation, cases.studies, tmp_path / "run", app=make_app(tmp_path / "app")) as server:
        assert annotator.save(server, image) == (200, "")
        disk.fill()
        answer = server.ask("DELETE", f"/datastore/label?id={image}&tag=final")
        assert answer.status == 507, answer
        assert "full" in answer.reason
        assert readable(server, image)[1] == 1
        assert server.client().info()["datastore"]["completed"] == 1
        disk.make_room()
        assert server.ask("DELETE", f"/datastore/label?id={image}&tag=final").status == 200
        assert server.client().info()["datastore"]["completed"] == 0
    check_all(cases)


def test_a_server_that_was_killed_starts_on_a_full_disk_and_lets_read(preparation, disk, cases, tmp_path):
    annotator = Annotator(cases)
    server = PreparedServer(preparation, cases.studies, tmp_path / "run", app=make_app(tmp_path / "app"))
    with server:
        assert annotator.save(server, cases.names[0]) == (200, "")
        server.kill()
    disk.fill()
    with server:
        assert readable(server, cases.names[0])[1] == 1
        status, reason = annotator.save(server, cases.names[0])
        assert status == 507
        assert "full" in reason
        disk.make_room()
        assert annotator.save(server, cases.names[0]) == (200, "")
    check_all(cases)


def test_a_server_that_can_not_start_on_a_full_disk_says_why(preparation, disk, cases, tmp_path):
    annotator = Annotator(cases)
    server = PreparedServer(preparation, cases.studies, tmp_path / "run", app=make_app(tmp_path / "app"))
    with server:
        assert annotator.save(server, cases.names[0]) == (200, "")
    Ledger(
        f"sqlite:///{cases.studies}/ledger/ledger.sqlite"
    ).close()  # its working files go with the last who has it open
    disk.fill()
    server.start()
    wait_until(lambda: server.code() is not None, "the server's end")
    assert server.code() != 0
    assert "the disk is full" in server.log()
    disk.make_room()
    with server:
        assert annotator.save(server, cases.names[1]) == (200, "")
    check_all(cases)


def test_a_read_only_disk_is_told_and_survived(preparation, disk, cases, tmp_path):
    annotator = Annotator(cases)
    # A disk can't be made read-only while the ledger on it is open.
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    conf = {"ledger": url}
    server = PreparedServer(preparation, cases.studies, tmp_path / "run", app=make_app(tmp_path / "app"), conf=conf)
    with server:
        for image in cases.names:
            assert annotator.save(server, image) == (200, "")
        kept = KeptLabels(cases, url)
        disk.protect()
        for image in cases.names:
            status, reason = annotator.save(server, image)
            assert status == 503, reason
            assert "read-only" in reason
            content, versions = readable(server, image)
            assert versions == 1
            assert content == (kept.layout.versions / kept.history(image)[-1].file).read_bytes()
        kept.check(annotator.journal)
        disk.unprotect()
        for image in cases.names:
            assert annotator.save(server, image) == (200, "")
        kept.check(annotator.journal)
        kept.check_order(annotator.journal)
        kept.close()
        assert "Traceback" not in server.log()
    check_all(cases, Settings(ledger=url))


def test_a_server_on_a_read_only_disk_says_why_it_does_not_start(preparation, disk, cases, tmp_path):
    server = PreparedServer(preparation, cases.studies, tmp_path / "run", app=make_app(tmp_path / "app"))
    disk.protect()
    server.start()
    wait_until(lambda: server.code() is not None, "the server's end")
    assert server.code() != 0
    assert "read-only" in server.log()
    disk.unprotect()
    with server:
        assert Annotator(cases).save(server, cases.names[0]) == (200, "")
