"""Many annotators at once, on one server and on two over one ledger."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import requests

from lib.volume import Volume
from lib.volume_io import write_image, write_label
from tests.loop.kept_labels import KeptLabels
from tests.loop.prepared_server import PreparedServer
from tests.loop.running_server import RunningServer, make_app, wait_until
from tests.loop.savers import Cases, Client, Journal

pytestmark = pytest.mark.server

_SAVERS = 16
_SAVING_S = 10
_ASKING = 40
_FREE = 50


def test_sixteen_clients_save_at_once(warm, tmp_path):
    cases = Cases(tmp_path / "studies", 6)
    journal = Journal()
    with RunningServer(warm, cases.studies, tmp_path / "run", app=make_app(tmp_path / "app")) as server:
        clients = []
        for number in range(_SAVERS):
            # Some work on one image, others on several; every image has several clients.
            images = [cases.names[(number + step) % 6] for step in range(1 + number % 3)]
            clients.append(Client(server.url, f"client {number}", cases, images, journal))
        for client in clients:
            client.start()
        end = time.monotonic() + _SAVING_S
        for client in clients:
            client.join(max(0.0, end - time.monotonic()))
        wait_until(lambda: len({saved.client for saved in journal.acknowledged}) == _SAVERS, "a save of each")
        for client in clients:
            client.stop()
        for client in clients:
            client.join()
        kept = KeptLabels(cases, f"sqlite:///{cases.studies}/ledger/ledger.sqlite")
        assert kept.pending() == []  # an answer comes after the label is shown
        kept.check(journal)
        kept.check_order(journal)
        kept.close()
        for image in cases.names:
            told = server.ask("GET", f"/ledger/images/{image}/versions").reason
            assert [version["number"] for version in told] == list(range(len(told), 0, -1))
    print(f"{len(journal.acknowledged)} saves")
    assert not journal.refused
    assert not journal.broken_off
    by_client = Counter(saved.client for saved in journal.acknowledged)
    assert len(by_client) == _SAVERS
    assert len(journal.acknowledged) == len(journal.sent)


# ---- who gets which image


@pytest.fixture(params=["sqlite", "postgresql"])
def conf(request):
    """Settings for either database."""
    if request.param == "sqlite":
        yield {}
        return
    database = request.getfixturevalue("postgresql")
    url = database.new_database()
    yield {"ledger": url}
    database.drop_database(url)


@pytest.fixture
def studies(tmp_path):
    """Tiny images, each of its own."""
    folder = tmp_path / "studies"
    for number in range(_FREE):
        voxels = np.random.default_rng(number).integers(-900, 900, (8, 7, 6)).astype(np.int16)
        write_image(folder / f"case_{number:02d}.nii.gz", Volume(voxels, np.diag([-0.7, -0.8, 2.5, 1.0])))
    return folder


@pytest.fixture
def servers(request, preparation, studies, tmp_path, conf):
    """As many servers as the test asks for, over one ledger, all started at once."""
    count = request.param
    made = [
        PreparedServer(
            preparation, studies, tmp_path / f"run{number}", app=make_app(tmp_path / f"app{number}"), conf=conf
        )
        for number in range(count)
    ]
    for server in made:
        server.start()
    with ExitStack() as stack:
        for server in made:
            stack.callback(server.end)
        for server in made:
            server.wait()
        yield made
    for server in made:
        assert "Traceback" not in server.log()


def ask_at_once(servers, clients, strategy="random"):
    """What each client is answered when all ask in the same moment."""
    start = threading.Barrier(len(clients))

    def ask(position):
        start.wait()
        server = servers[position % len(servers)]
        asked = {"client_id": clients[position]}
        return requests.post(f"{server.url}/activelearning/{strategy}", json=asked, timeout=120)

    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(ask, range(len(clients))))


@pytest.mark.parametrize(
    ("conf", "servers", "strategy"),
    [("sqlite", 1, "random"), ("sqlite", 2, "first"), ("postgresql", 1, "first"), ("postgresql", 2, "random")],
    indirect=["conf", "servers"],
)
def test_no_image_is_given_twice_while_others_are_free(servers, strategy):
    clients = [f"client {number}" for number in range(_ASKING)]
    answers = ask_at_once(servers, clients, strategy)
    assert [answer.status_code for answer in answers] == [200] * _ASKING
    given = [answer.json()["id"] for answer in answers]
    assert len(set(given)) == _ASKING
    # Who asks again, on whichever server, gets the same.
    again = ask_at_once(servers[::-1], clients, strategy)
    assert [answer.json()["id"] for answer in again] == given
    # More clients than images: those that are left are given once, and the others are told who has them.
    late = ask_at_once(servers, [f"late {number}" for number in range(_ASKING)], strategy)
    counted = Counter(answer.status_code for answer in late)
    assert counted == {200: _FREE - _ASKING, 409: 2 * _ASKING - _FREE}
    given += [answer.json()["id"] for answer in late if answer.status_code == 200]
    assert sorted(given) == [f"case_{number:02d}" for number in range(_FREE)]
    told = next(answer.json()["detail"] for answer in late if answer.status_code == 409)
    assert f"all {_FREE} images that are left are with {_FREE} other annotators" in told
    listed = servers[0].ask("GET", "/ledger/leases").reason
    assert sorted(lease["image_id"] for lease in listed) == sorted(given)


@pytest.mark.parametrize("servers", [2], indirect=True, ids=["two servers"])
def test_annotators_share_the_work(servers, studies, tmp_path):
    """Each asks, saves and asks again until all is labelled: no case is done twice, none is left."""
    label = tmp_path / "label.nii.gz"
    array = np.zeros((8, 7, 6), np.uint8)
    array[2:5, 2:5, 2:5] = 1
    write_label(label, Volume(array, np.diag([-0.7, -0.8, 2.5, 1.0])))
    content = label.read_bytes()

    def work(number):
        done = []
        with requests.Session() as session:
            while True:
                server = servers[(number + len(done)) % len(servers)]
                asked = {"client_id": f"client {number}"}
                answer = session.post(f"{server.url}/activelearning/random", json=asked, timeout=120)
                if answer.status_code == 409 or answer.json() == {}:  # the last ones are with others
                    return done
                image = answer.json()["id"]
                saved = session.put(
                    f"{server.url}/datastore/label",
                    params={"image": image},
                    data={"params": json.dumps(asked)},
                    files={"label": ("label.nii.gz", content)},
                    timeout=120,
                )
                assert saved.status_code == 200, saved.text
                done.append(image)

    with ThreadPoolExecutor(12) as pool:
        done = [image for images in pool.map(work, range(12)) for image in images]
    assert sorted(done) == [f"case_{number:02d}" for number in range(_FREE)]
    for server in servers:
        assert server.ask("POST", "/activelearning/random", json={"client_id": "late"}).reason == {}
        stats = server.client().info()["datastore"]
        assert (stats["total"], stats["completed"]) == (_FREE, _FREE)
        assert server.ask("GET", "/ledger/leases").reason == []
    assert len(list((studies / "labels" / "final").glob("*.nii.gz"))) == _FREE
