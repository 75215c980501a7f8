"""The server is killed in the middle of saving, again and again; what it had answered for is all there afterwards.

A kill leaves the disk as the system sees it, so this proves the order of writes and transactions; that they reach the
disk in a power cut is the work of fsync.
"""

import random
import time

import pytest

from lib.settings import Settings
from lib.store import audit
from lib.store.store import Store
from tests.loop.kept_labels import TEMPORARY, KeptLabels
from tests.loop.prepared_server import PreparedServer
from tests.loop.running_server import make_app, wait_until
from tests.loop.savers import Cases, Client, Journal

pytestmark = pytest.mark.server

_CLIENTS = 6
_IMAGES = 4
_ANY_MOMENT_S = 0.6
_BUSY_S = 6.0
_HARMLESS = {audit.Kind.LEFT_OVER, audit.Kind.NO_VERSION}


@pytest.fixture
def cases(tmp_path):
    return Cases(tmp_path / "studies", _IMAGES)


def save_until_killed(server, cases, journal, round_, moment_s):
    """Clients save until the server is gone; two or more of them save for each image."""
    clients = []
    for number in range(_CLIENTS):
        images = [cases.names[number % _IMAGES], cases.names[(number + round_) % _IMAGES]]
        clients.append(Client(server.url, f"client {round_}.{number}", cases, images, journal))
    for client in clients:
        client.start()
    time.sleep(moment_s)
    server.kill()
    for client in clients:
        client.join()


def kill_again_and_again(server, cases, ledger_url, kills, seed):
    """Each time with every check, and once more at the end."""
    chance = random.Random(seed)
    latest_s = _ANY_MOMENT_S
    journal = Journal()
    with server:
        pass  # the first start makes the ledger
    kept = KeptLabels(cases, ledger_url)
    for round_ in range(kills):
        if round_ % 8 == 7:  # also while it starts and repairs
            server.start()
            time.sleep(chance.uniform(0, _ANY_MOMENT_S))
            server.kill()
        with server:
            wait_until(lambda: not kept.pending(), "the labels to be shown", pause_s=0.01)
            kept.check(journal)
            save_until_killed(server, cases, journal, round_, chance.uniform(0, latest_s))
            assert not journal.refused
        if len(journal.acknowledged) <= 2 * round_:  # a busy machine, on which a save takes longer
            latest_s = min(1.2 * latest_s, _BUSY_S)
    with server:
        wait_until(lambda: not kept.pending(), "the labels to be shown", pause_s=0.01)
        kept.check(journal)
        kept.check_order(journal)
        for image in cases.names:
            newest = kept.history(image)[-1]
            path = server.client().download_label(image, "final")
            with open(path, "rb") as downloaded:
                assert downloaded.read() == (kept.layout.versions / newest.file).read_bytes()
    found = sum(len(kept.history(image)) for image in cases.names)
    unfinished = len(list(cases.studies.rglob(f"{TEMPORARY}*")))
    kept.close()
    nevertheless = found - len(journal.acknowledged)
    print(
        f"{kills} kills hit {len(journal.broken_off)} saves, {nevertheless} of them kept nevertheless "
        f"and {unfinished} while a file was written; {len(journal.acknowledged)} were answered and kept"
    )
    assert len(journal.broken_off) > kills, "the kills hit no save"
    assert len(journal.acknowledged) > kills, "hardly anything was saved"


def check_the_rest(cases, settings):
    """Nothing else disagrees between ledger and folder."""
    store = Store(cases.studies, settings)
    findings = [finding for finding in audit.check(store) if finding.kind not in _HARMLESS]
    store.close()
    assert not findings


def test_a_hundred_kills_lose_nothing(preparation, cases, tmp_path):
    server = PreparedServer(preparation, cases.studies, tmp_path / "run", app=make_app(tmp_path / "app"))
    kill_again_and_again(server, cases, f"sqlite:///{cases.studies}/ledger/ledger.sqlite", kills=100, seed=1)
    check_the_rest(cases, Settings())


def test_kills_lose_nothing_with_postgresql(preparation, postgresql, cases, tmp_path):
    url = postgresql.new_database()
    app = make_app(tmp_path / "app")
    server = PreparedServer(preparation, cases.studies, tmp_path / "run", app=app, conf={"ledger": url})
    kill_again_and_again(server, cases, url, kills=20, seed=2)
    check_the_rest(cases, Settings(ledger=url))
    postgresql.drop_database(url)
