"""How long annotators wait: for what was segmented ahead, many at once, too many, and some who leave."""

import json
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

from lib.volume import Volume
from lib.volume_io import write_image
from tests.loop.running_server import MODEL, RunningServer, make_app, wait_until
from tests.loop.studies import phantom

pytestmark = pytest.mark.server

CLIENTS = 8
CROWD = 20
_CONF = {"inference.engine": "pytorch", "inference.most_waiting": CLIENTS}


@pytest.fixture(scope="module")
def server(warm, tmp_path_factory):
    """A server over the CT `a_large` and many small ones, all different."""
    folder = tmp_path_factory.mktemp("waiting")
    write_image(folder / "studies" / "a_large.nii.gz", phantom(1, (192, 192, 20)).image)
    small = phantom(3).image
    for number in range(CROWD):
        moved = np.roll(small.array, (number % 8, number // 8), (0, 1))
        write_image(folder / "studies" / f"small_{number:02d}.nii.gz", Volume(moved, small.affine))
    with RunningServer(warm, folder / "studies", folder / "run", app=make_app(folder / "app"), conf=_CONF) as running:
        yield running


def segment(server, image, client="ann", output="image", sent=False):
    """The answer, and how many seconds it took; an image that is sent is never in the cache."""
    asked = {"output": output} | ({} if sent else {"image": image})
    data = {"params": json.dumps({"client_id": client, "device": "cpu"})}
    files = {"file": (f"{image}.nii.gz", (server.studies / f"{image}.nii.gz").read_bytes())} if sent else None
    start = time.perf_counter()
    answer = requests.post(f"{server.url}/infer/{MODEL}", params=asked, data=data, files=files, timeout=240)
    return answer, time.perf_counter() - start


def at_once(server, images, **options):
    """The answers to as many clients that ask in the same moment."""
    start = threading.Barrier(len(images))

    def ask(number):
        start.wait()
        return segment(server, images[number], f"client {number}", **options)

    with ThreadPoolExecutor(len(images)) as pool:
        return list(pool.map(ask, range(len(images))))


def inference(server):
    return server.ask("GET", "/info/").reason["inference"]


def test_what_was_handed_out_is_there_when_it_is_asked_for(server):
    segment(server, "small_00", sent=True)  # the first one loads the model
    cold, cold_s = segment(server, "a_large", sent=True)
    given = server.ask("POST", "/activelearning/first", json={"client_id": "ann"}).reason
    assert given["id"] == "a_large"
    wait_until(lambda: inference(server)["kept_results"] == 2, "the segmentation ahead", pause_s=0.05)
    told = segment(server, "a_large", output="json")[0].json()
    assert told["cached"] is True
    assert "network" not in told["latencies"]["steps"]
    warm, warm_s = segment(server, "a_large")
    assert warm.content == cold.content
    print(f"cold {cold_s:.3f} s, ahead {warm_s:.3f} s")
    assert warm_s * 3 < cold_s


def test_many_at_once_all_get_their_own_answers(server):
    images = [f"small_{number:02d}" for number in range(CLIENTS)]
    alone = [segment(server, image, sent=True) for image in images]
    together = at_once(server, images)
    assert [answer.status_code for answer, _ in together] == [200] * CLIENTS
    assert [answer.content for answer, _ in together] == [answer.content for answer, _ in alone]
    assert len({answer.content for answer, _ in together}) == CLIENTS
    single, longest = statistics.median(seconds for _, seconds in alone), max(seconds for _, seconds in together)
    print(f"alone {single:.3f} s, the last of {CLIENTS} at once {longest:.3f} s")
    assert longest < 1.5 * CLIENTS * single + 1
    assert inference(server)["waiting"] == 0


def test_too_many_are_asked_to_come_back(server):
    images = [f"small_{number:02d}" for number in range(CROWD)]
    answers = [answer for answer, _ in at_once(server, images, sent=True)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(refused) <= CROWD - CLIENTS - 1  # that many may wait, and one is served
    for answer in refused:
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        reason = f"{CLIENTS} requests wait for the network already; ask again in {answer.headers['Retry-After']} s"
        assert answer.json() == {"detail": reason}
    assert segment(server, images[-2])[0].status_code == 200


def test_who_has_gone_is_not_worked_for(server):
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [f"client {number}" for number in range(CLIENTS)]
        busy = [pool.submit(segment, server, "a_large", client, sent=True) for client in clients]
        wait_until(lambda: inference(server)["waiting"] >= CLIENTS - 2, "a line", pause_s=0.01)
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            leaving.sendall(
                f"POST /infer/{MODEL}?image=small_19 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
            )
            assert server.ask("GET", "/healthz").status == 200  # what was sent before has come
        assert [each.result()[0].status_code for each in busy] == [200] * CLIENTS
    assert "POST /infer/{model} refused: GoneError (queue.py:" in server.log()
    assert segment(server, "small_19", output="json")[0].json()["cached"] is False
