"""Both ways to start a server, and its end."""

import signal
import socket
import sys

import pytest

from tests.loop.running_server import MODEL, OURS, RunningServer, copy_app, make_app, wait_until
from tests.loop.studies import manifest, write_studies

pytestmark = pytest.mark.server


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_monailabel_start_server_works_as_its_users_know_it(tmp_path):
    """The repository's own app by a plain command, from another folder, with no variable set."""
    write_studies(tmp_path / "studies", range(50, 52))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = ("monailabel", "start_server")
    with RunningServer(
        None,
        tmp_path / "studies",
        tmp_path / "run",
        app=copy_app(tmp_path / "copy"),
        command=command,
        working_directory=elsewhere,
    ) as server:
        client = server.client()
        sample = client.next_sample("random", {})
        assert sample["id"] in {"case_50", "case_51"}
        assert server.children() == []  # no scoring is queued behind it
        assert client.infer(MODEL, sample["id"], {})[0]
        assert list(elsewhere.iterdir()) == []
        server.interrupt()
        assert is_free(server.port)


def test_serve_tells_where_it_is_and_ends_with_its_training_on_ctrl_c(tmp_path):
    write_studies(tmp_path / "studies", range(50, 52), labelled=True)
    before = manifest(tmp_path / "studies")
    command = (sys.executable, *OURS)
    with RunningServer(
        None, tmp_path / "studies", tmp_path / "run", app=make_app(tmp_path / "app"), command=command
    ) as server:
        wait_until(lambda: f"LiverLoop is ready at {server.url}" in server.log(), "the announcement")
        assert "(2 images)" in server.log()
        server.client().train_start(MODEL, {"max_epochs": 1000, "val_split": 0})
        (training,) = wait_until(server.children, "the training's process")
        assert "GET /info/ 200 " in (tmp_path / "app" / "logs" / "app.log").read_text()
        assert server.interrupt() == 0
        assert "stopped" in server.log().splitlines()
        assert not training.is_running()
        assert is_free(server.port)
    after = manifest(tmp_path / "studies")
    assert {name: sha for name, sha in after.items() if not name.startswith("ledger/")} == before


def test_serve_ends_on_a_service_managers_signal(tmp_path):
    write_studies(tmp_path / "studies", range(50, 51))
    command = (sys.executable, *OURS)
    with RunningServer(
        None, tmp_path / "studies", tmp_path / "run", app=make_app(tmp_path / "app"), command=command
    ) as server:
        assert server.interrupt(signal.SIGTERM) == 0
