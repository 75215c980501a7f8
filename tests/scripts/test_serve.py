"""scripts/serve.py as a person runs it; everything but the last test ends before MONAI Label is imported."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from lib.inference.model import new_network
from lib.networks.checkpoint import save_weights
from lib.settings import load_settings

REPOSITORY = Path(__file__).resolve().parents[2]
SERVE = REPOSITORY / "scripts" / "serve.py"
APP = REPOSITORY / "apps" / "liver_tumor"

# The app with the smallest network, and a subprocess as a training would be.
STUB = """
import subprocess
from lib.web.app import LiverLoopApp

CHILD = subprocess.Popen(["sleep", "600"])
"""
SMALL = "network: {arguments: {filters: [4, 4, 8, 8, 8]}}\ninference: {precision: float32, engine: pytorch}\n"


def run(*arguments):
    process = subprocess.run(
        [sys.executable, str(SERVE), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return process.returncode, process.stdout, process.stderr


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refused(*arguments):
    """The one line on stderr of a start that is refused."""
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors.removeprefix("error: ").rstrip("\n")


def test_help_explains_everything_without_an_environment():
    code, output, errors = run("--help")
    assert (code, errors) == (0, "")
    for word in (
        "--studies",
        "--host",
        "--port",
        "--app",
        "--conf",
        "--tls-key",
        "--verbose",
        "3D Slicer",
        "OHIF",
        "Exit code",
    ):
        assert word in output
    plain = subprocess.run(["python3", "-I", "-S", str(SERVE), "--help"], capture_output=True, text=True, timeout=60)
    assert plain.stdout == output


def test_a_taken_port(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert refused("--studies", tmp_path, "--port", taken) == (
            f"port {taken} on 127.0.0.1 is taken by another program; stop that one or choose another with --port"
        )


def test_a_missing_studies_folder(tmp_path, port):
    missing = tmp_path / "missing"
    message = refused("--studies", missing, "--port", port)
    assert message == f"the studies folder {missing} does not exist; make it or correct --studies"


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that even root can't write")
def test_an_unwritable_studies_folder(port):
    message = refused("--studies", "/sys", "--port", port)
    assert re.fullmatch(
        r"the studies folder /sys can't be written \(.+\); labels are kept in it: change its permissions or choose "
        "another",
        message,
    )


def test_a_folder_that_is_no_app(tmp_path, port):
    assert refused("--app", tmp_path, "--studies", tmp_path, "--port", port) == (
        f"{tmp_path} is not an app: it has no main.py; give a folder such as apps/liver_tumor with --app"
    )


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (("bogus", "1"), "--conf: unknown key bogus"),
        (("training.max_epochs", "many"), "training.max_epochs = 'many'"),
    ],
)
def test_wrong_conf(tmp_path, port, conf, message):
    assert message in refused("--app", APP, "--studies", tmp_path, "--port", port, "--conf", *conf)


def test_the_network_without_a_login(tmp_path, port):
    code, output, errors = run("--studies", tmp_path, "--port", port, "--host", "0.0.0.0")
    assert (code, output) == (2, "")
    warning, error = errors.splitlines()
    assert warning == (
        "warning: --host 0.0.0.0 without --tls-certificate and --tls-key: passwords and images cross the network in "
        "clear, unless a proxy on the way does TLS"
    )
    assert error == (
        "error: --host 0.0.0.0 would open the server to the network, and nobody has to log in yet; add a user with: "
        f"scripts/users.py add NAME --role admin --studies {tmp_path}, then start again"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_required_login_that_nobody_has(tmp_path, port):
    message = refused("--studies", tmp_path, "--port", port, "--conf", "access.login", "required")
    assert message.startswith("a login is required, and there is nobody who could log in; add a user with: ")


def test_half_a_certificate(tmp_path, port):
    assert refused("--studies", tmp_path, "--port", port, "--tls-key", tmp_path / "key.pem") == (
        "--tls-key needs --tls-certificate as well; give both, or none and let a proxy do TLS"
    )


def test_the_login_of_monai_label(tmp_path, port, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
    assert refused("--studies", tmp_path, "--port", port).startswith("MONAI_LABEL_AUTH_ENABLE is set, and ")


@pytest.mark.parametrize("arguments", [("--bogus",), ("--port", "http"), ("--conf", "one")])
def test_wrong_arguments(arguments):
    assert refused(*arguments).endswith("; see scripts/serve --help")


@pytest.mark.server
def test_a_server_is_announced_and_stops_cleanly_with_its_subprocesses(tmp_path, port):
    app, studies = tmp_path / "app", tmp_path / "studies"
    app.mkdir()
    studies.mkdir()
    (app / "main.py").write_text(STUB)
    (app / "app.yaml").write_text(SMALL)
    save_weights(app / "starter.pt", new_network(load_settings(app / "app.yaml")), {"version": "starter-1"})
    process = subprocess.Popen(
        [sys.executable, str(SERVE), "--app", str(app), "--studies", str(studies), "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "errors").open("w"),
        text=True,
        # What this test run sets must not decide how the server starts.
        env={name: value for name, value in os.environ.items() if not name.startswith("MONAI_LABEL_")},
    )
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        assert f"LiverLoop is ready at http://127.0.0.1:{port}\n" in lines
        assert f"  studies    {studies} (0 images)\n" in lines
        assert "  login      nobody is asked to log in, on this machine only (docs/access.md)\n" in lines
        children = psutil.Process(process.pid).children(recursive=True)
        assert "sleep" in [child.name() for child in children]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait() == 0
    finally:
        watchdog.cancel()
        process.kill()
    assert rest.endswith("stopped\n")
    assert "Traceback" not in (tmp_path / "errors").read_text()
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
