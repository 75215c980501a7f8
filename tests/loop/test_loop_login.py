"""Who logs in to a running server, how, and what they then may."""

import http.client
import re
import socket
import ssl
import time

import psutil
import pytest
import requests
from monailabel.client.client import MONAILabelClientException

from lib.access.roles import Role
from lib.volume_io import write_image
from lib.web.guard.callers import COOKIE
from tests.access.identity_provider import IdentityProvider, SigningKey
from tests.loop.login_site import USERS, login_site
from tests.loop.running_server import MODEL, PATIENCE_S
from tests.loop.sites import our_server
from tests.loop.slicer_module import DialogError
from tests.loop.studies import phantom

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    with IdentityProvider(tmp_path_factory.mktemp("provider"), [SigningKey("1")]) as running:
        running.users["ina", "secret words"] = {}
        yield running


@pytest.fixture(scope="module")
def site(warm, provider, tmp_path_factory):
    with login_site(warm, tmp_path_factory.mktemp("login"), provider) as running:
        yield running


def refusal(action, error=DialogError):
    """Status and reason of what a client shows."""
    with pytest.raises(error) as caught:
        action()
    text = str(caught.value.msg if hasattr(caught.value, "msg") else caught.value)
    found = re.search(r'Status: (\d+); Response: .*?"detail": ?"(.*?)"\}', text)
    assert found, text
    return int(found[1]), found[2]


# -- 3D Slicer


def test_an_annotators_day_in_3d_slicer(site):
    slicer = site.slicer("ann")
    slicer.connect()
    for done in range(2):
        image_id = slicer.next_sample()
        assert slicer.downloads == done + 1
        (lease,) = site.ask("GET", "/ledger/leases", "ann")
        assert (lease["image_id"], lease["client_id"]) == (image_id, "ann")
        assert slicer.segment()["label_names"]
        slicer.segments["tumor"][8, 40:44, 40:44] = True
        slicer.submit()
        (version,) = site.ask("GET", f"/ledger/images/{image_id}/versions?tag=final", "ann")
        assert version["author"] == "ann"
    assert slicer.dialogs == 1
    kinds = {(event["kind"], event["actor"]) for event in site.ask("GET", "/ledger/events?limit=500", "ada")}
    assert ("logged in", "ann") in kinds
    assert "mallory" not in {actor for _, actor in kinds}


def test_a_wrong_password_in_3d_slicer(site):
    slicer = site.slicer("ann", "wrong")
    assert refusal(slicer.connect) == (
        401,
        "log in first; if you just did, the name or the password was wrong",
    )
    assert slicer.dialogs > 0
    slicer._login = ("ann", site.passwords["ann"])  # typed into the dialog that comes again
    slicer.connect()


def test_a_login_that_ends_while_3d_slicer_is_open(site):
    name = site.add("guest", Role.ANNOTATOR)
    slicer = site.slicer(name)
    slicer.connect()
    assert site.accounts.revoke_all(name, by="test") == 1
    assert slicer.next_sample()  # it logs in again with what was typed
    assert slicer.dialogs == 1
    site.accounts.disable(name, by="test")
    assert refusal(slicer.next_sample) == (401, "this login has ended, or never was one; log in again")
    with pytest.raises(DialogError, match="log in"):
        slicer.connect()
    assert slicer.dialogs == 2


# -- MONAI Label's Python client


@pytest.mark.parametrize("name", USERS)
def test_all_calls_of_one_python_client(site, tmp_path, name):
    role = USERS[name]
    client = site.client(name)
    extra = phantom(90 + list(USERS).index(name), (64, 64, 12))
    write_image(tmp_path / "own.nii.gz", extra.image)
    own = str(tmp_path / "own.nii.gz")

    def needs(least, action):
        """The action's answer, or its refusal for whoever is less."""
        if role >= least:
            return action()
        status, reason = refusal(action, MONAILabelClientException)
        assert (status, reason) == (403, f"{name} is {role} here, and this needs {least}; ask an administrator")
        return None

    assert client.info()["models"][MODEL]
    before = client.create_session(own)["session_id"]
    image_id = client.next_sample("first", {})["id"]
    after_json = client.create_session(own)["session_id"]
    assert client.get_session(after_json)["name"] == after_json
    label, told = client.infer(MODEL, "", {}, session_id=after_json)
    assert label
    assert told["label_names"]
    after_form = client.create_session(own, {"client_id": "x"})["session_id"]
    for session in (before, after_json, after_form):
        assert client.remove_session(session)["name"] == session
    label, _ = client.infer(MODEL, image_id, {})
    named = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
    assert client.save_label(image_id, label, params={"label_info": named})["version"]
    assert client.upload_image(own, f"sent-by-{name}")["image"] == f"sent-by-{name}"
    assert {image_id, f"sent-by-{name}"} <= client.datastore()["objects"].keys()
    assert client.infer(MODEL, f"sent-by-{name}", {})[0]
    assert client.download_label(image_id, "final")
    assert client.infer(MODEL, "", {}, file=own)[0]
    assert client.train_status(True) is False
    assert refusal(lambda: client.wsi_infer(MODEL, image_id), MONAILabelClientException) == (
        403, "POST /infer/wsi/{model} is switched off here: this server segments CT and takes no whole-slide images; "
        "use /infer/{model}",
    )  # fmt: skip
    needs(Role.REVIEWER, lambda: client.next_sample("review", {}))
    needs(Role.ADMIN, lambda: client.train_start(MODEL, {"max_epochs": 1000, "val_split": 0}))
    assert client.train_status(True) is (role is Role.ADMIN)
    needs(Role.ADMIN, client.train_stop)
    assert client.auth_valid_token()
    assert client.info()
    versions = site.ask("GET", f"/ledger/images/{image_id}/versions?tag=final", name)
    assert versions[0]["author"] == name


# -- What ends and changes


def test_another_role_counts_at_once(site):
    name = site.add("climber", Role.ANNOTATOR)
    client = site.client(name)
    told = refusal(lambda: client.next_sample("review", {}), MONAILabelClientException)
    assert told == (403, f"{name} is annotator here, and this needs reviewer; ask an administrator")
    site.accounts.set_role(name, Role.REVIEWER, by="test")
    assert client.next_sample("review", {})["id"]
    site.accounts.set_role(name, Role.ANNOTATOR, by="test")
    assert refusal(lambda: client.next_sample("review", {}), MONAILabelClientException) == told


def test_logging_out_counts_at_once(site):
    name = site.add("leaver", Role.ANNOTATOR)
    first, second = site.token(name), site.token(name)
    headers = [{"Authorization": f"Bearer {token}"} for token in (first, second)]
    assert site.server.ask("POST", "/auth/logout", headers=headers[0]).reason == {"logged_out": True}
    assert [site.server.ask("GET", "/info/", headers=one).status for one in headers] == [401, 200]
    assert site.accounts.revoke_all(name, by="test") == 1
    answer = site.server.ask("GET", "/info/", headers=headers[1])
    assert answer == (401, "this login has ended, or never was one; log in again")


def test_guessing_is_slowed_down(site):
    name = site.add("guessed", Role.ANNOTATOR)

    def log_in(password):
        form = {"username": name, "password": password}
        return requests.post(f"{site.server.url}/auth/token", data=form, timeout=PATIENCE_S)

    answers = [log_in("wrong") for _ in range(5)]
    assert {(one.status_code, one.json()["detail"]) for one in answers} == {(401, "wrong user name or password")}
    for _ in range(5):  # where logging in takes longer than the first pause, a later one is seen
        if (refused := log_in("wrong")).status_code == 429:
            break
    pause_s = int(refused.headers["Retry-After"])
    assert refused.json()["detail"] == f"too many failed logins; try again in {pause_s} s"
    time.sleep(pause_s)
    assert log_in(site.passwords[name]).status_code == 200


# -- Networks


def test_the_network_only_with_a_login(warm, tmp_path):
    server = our_server(warm, tmp_path)
    code, log = server.run_to_end("--host", "0.0.0.0")
    assert code == 2
    assert (
        "error: --host 0.0.0.0 would open the server to the network, and nobody has to log in yet; add a user with: "
        f"scripts/users.py add NAME --role admin --studies {tmp_path / 'studies'}, then start again"
    ) in log


def test_https(site):
    with requests.Session() as browser:
        page = browser.get(f"{site.server.url}/", headers={"Accept": "text/html"}, timeout=60)
        assert page.url == f"{site.server.url}/login?next=%2F"
        assert page.headers["Strict-Transport-Security"].startswith("max-age=")
        form = {"name": "ann", "password": site.passwords["ann"], "next": "/"}
        page = browser.post(f"{site.server.url}/login", data=form, timeout=60)
        assert (page.status_code, page.url) == (200, f"{site.server.url}/")
        cookie = page.history[0].headers["Set-Cookie"]
        assert cookie.startswith(f"{COOKIE}=")
        assert {"httponly", "secure", "samesite=lax"} <= {part.strip().lower() for part in cookie.split(";")}
    with pytest.raises(requests.ConnectionError):
        requests.get(site.server.url.replace("https:", "http:"), timeout=60)


def test_figures_are_for_this_machine_or_for_who_logs_in(site):
    address = next((one for one in _addresses() if not one.startswith("127.")), None)
    if address is None:
        pytest.skip("this machine has no other address")
    assert site.server.ask("GET", "/metrics").status == 200
    context = ssl._create_unverified_context()
    statuses = []
    for headers in ({}, {"Authorization": f"Bearer {site.token('ann')}"}):
        connection = http.client.HTTPSConnection(address, site.server.port, context=context, timeout=60)
        connection.request("GET", "/metrics", headers=headers)
        statuses.append(connection.getresponse().status)
        connection.close()
    assert statuses == [401, 200]


def _addresses():
    """IPv4 addresses of this machine."""
    return [one.address for found in psutil.net_if_addrs().values() for one in found if one.family == socket.AF_INET]


# -- An identity provider


def test_a_token_of_an_identity_provider(site, provider):
    def ask(**claims):
        headers = {"Authorization": f"Bearer {provider.token(**claims)}"}
        return site.server.ask("GET", "/auth/token/valid", headers=headers)

    assert ask(preferred_username="ida").reason["username"] == "ida"
    assert ask(preferred_username="ida", aud="another").status == 401
    assert ask(preferred_username="ida", realm_access={"roles": []}).status == 403
    answer = ask(preferred_username="ann")
    assert answer.status == 403
    assert answer.reason.startswith("ann is a user of this server and of the identity provider")


def test_a_password_of_an_identity_provider(site, provider):
    site.passwords["ina"] = "secret words"
    client = site.client("ina")
    image_id = client.next_sample("random", {})["id"]
    leases = {lease["image_id"]: lease["client_id"] for lease in site.ask("GET", "/ledger/leases", "ann")}
    assert leases[image_id] == "ina"
    assert all(form["username"] == "ina" for form in provider.forms)  # never a user of ours
    with pytest.raises(MONAILabelClientException, match="Status: 401"):
        client.auth_token("ina", "wrong")


def test_no_password_and_no_token_is_in_the_log(site):
    log = site.server.log()
    assert "POST /auth/token 200" in log
    assert not [secret for secret in (*site.passwords.values(), "secret words", "Bearer") if secret in log]
