"""Whatever is sent to the running server, in whosever name: an answer that is no 5xx, and no file touched elsewhere.

LIVERLOOP_SCHEMA_EXAMPLES=500 sends so many requests of each kind and role, for a long search.
"""

import getpass
import os
import re
import signal
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from lib.access.roles import Role
from lib.web.guard.table import find
from tests.loop.file_manifest import manifest_of, touched
from tests.loop.running_server import MODEL, wait_until
from tests.loop.schema_site import PASSWORD, Site, running_site
from tests.loop.schema_values import Sent, requests_for

pytestmark = pytest.mark.server

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = int(os.environ.get("LIVERLOOP_SCHEMA_EXAMPLES", "6"))
NO_HANG_S = 60.0  # whatever else the machine does
NOBODY = "nobody"
# What may be made, changed or removed on behalf of nobody at all, of every user, and of admins.
LOGS = ["run/server.log", "app/logs/.*"]
FAILED_LOGINS = ["studies/ledger/ledger.sqlite(-wal|-shm)?"]
WORK = ["studies/labels(/.*)?", "studies/ledger/.*", "run/sessions(/.*)?"]
UPLOADS = [r"studies/[^/]+\.(nii\.gz|nii|nrrd)"]
MODELS = ["app/model(/.*)?"]
ADMIN_EVENTS = {
    "training started", "training stopped", "training ended", "scoring started", "scoring stopped", "batch started",
    "batch stopped", "model published", "model exported", "model added", "image removed", "image excluded",
    "image included", "label withdrawn", "user added", "role changed", "password changed", "user disabled",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(warm, tmp_path_factory):
    with running_site(warm, tmp_path_factory.mktemp("schema")) as running:
        # What a server makes once, at its first inference, is no effect of what comes later.
        headers = running.headers(Role.ANNOTATOR)
        running.server.ask("POST", f"/infer/{MODEL}?image=case_20", headers=headers)
        running.server.wait_for_removals()
        yield running


def walk(site: Site, role: Role | None) -> tuple[dict[str, Counter[int]], list[str]]:
    """Send requests to every operation; gives the statuses of each, and what should not have happened."""
    statuses: dict[str, Counter[int]] = {}
    problems: list[str] = []
    for operation in site.operations():
        statuses[operation.label] = _send_some(site, role, operation, problems.append)
        site.known.sessions += site.sessions[len(site.known.sessions) :]  # not while they are drawn from
    return statuses, problems


def _send_some(site: Site, role: Role | None, operation: Any, complain: Callable[[str], None]) -> Counter[int]:
    seen: Counter[int] = Counter()

    @seed(zlib.crc32(f"{operation.label} {role}".encode()))
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(sent=requests_for(operation, site.known))
    def send(sent: Sent) -> None:
        seen[_send(site, role, sent, complain)] += 1

    send()
    return seen


def _send(site: Site, role: Role | None, sent: Sent, complain: Callable[[str], None]) -> int:
    label = sent.case.operation.label
    headers = site.headers(role)
    if "logout" in label and role is not None:
        headers = {"Authorization": f"Bearer {site.new_token(role)}"}
    options = sent.options(site.server.url)
    options["headers"] = {**dict(options.get("headers") or {}), **headers}
    try:
        answer = requests.request(**options, timeout=NO_HANG_S, allow_redirects=False)
    except requests.RequestException as error:
        complain(f"{error!r} of {sent}")
        return 0
    try:  # one client at a time: nothing excuses a 5xx, and every answer is one that is described
        sent.case.validate_response(answer, checks=CHECKS if sent.is_its_own else [not_a_server_error])
    except FailureGroup as failures:
        complain(
            f"{[failure.title for failure in failures.exceptions]}: {answer.status_code} {answer.text[:200]} of {sent}"
        )
    if answer.status_code < 300:
        site.stop_jobs(label)
        if label == "PUT /session/":
            site.sessions.append(answer.json()["session_id"])
        if not may(role, answer.request.method, requests.utils.unquote(requests.utils.urlparse(answer.url).path)):
            complain(f"{answer.status_code} for {role} of {sent}")
    if answer.status_code >= 400 and not isinstance(_detail(answer), str):
        complain(f"no reason in {answer.text[:200]} of {sent}")
    return answer.status_code


def may(role, method, path):
    row, _ = find(method, path)
    return row.role is None or row.is_watched or (role is not None and role >= row.role)


def _detail(answer: requests.Response) -> object:
    if answer.request.method == "HEAD" or answer.headers["content-type"].startswith("text/html"):
        return answer.reason
    return answer.json()["detail"]


def allowed(role: Role | None) -> list[str]:
    """Patterns of paths below the site's folder."""
    patterns = [*LOGS, *FAILED_LOGINS]
    if role is not None:
        patterns += WORK
    return patterns + (MODELS if role is Role.ADMIN else [])


@pytest.mark.parametrize("role", [None, *Role], ids=lambda role: NOBODY if role is None else role.value)
def test_whatever_is_sent(site, role):
    temporary = site.server.temporary
    before, events, left = manifest_of(site.root), site.events(), sorted(temporary.rglob("*"))
    statuses, problems = walk(site, role)
    if role is Role.ADMIN:  # or most of this would be a test of refusals
        reached = [label for label, seen in statuses.items() if any(200 <= status < 400 for status in seen)]
        assert len(reached) > 0.5 * len(statuses), statuses
    assert not problems, "\n".join(sorted(problems)[:: len(problems) // 30 + 1])
    wait_until(lambda: sorted(temporary.rglob("*")) == left, "the removal of temporary files")
    for path, what in touched(before, manifest_of(site.root)).items():
        is_upload = re.fullmatch(UPLOADS[0], path) and role is not None
        assert (
            any(re.fullmatch(pattern, path) for pattern in allowed(role))
            or (is_upload and (what == "made" or role is Role.ADMIN))
        ), f"{path} was {what}"  # fmt: skip
    more = {kind for kind, count in site.events().items() if count > events[kind]}
    if role is not Role.ADMIN:
        assert not more & ADMIN_EVENTS
    assert site.server.children() == []
    assert site.server.ask("GET", "/readyz") == (200, {"status": "ready"})


def test_nothing_is_left_behind(site):
    """The last: it stops the server."""
    server = site.server
    told = server.log() + "".join(path.read_text("utf-8", "replace") for path in (site.root / "app" / "logs").iterdir())
    assert not [token for token in site.tokens.values() if token in told]
    assert PASSWORD.format(Role.ADMIN.value) not in told
    process = server.process
    family = [process, *process.children(recursive=True)]
    assert server.interrupt(signal.SIGTERM) == 0
    assert not [one for one in family if one.is_running()]
    made_by_libraries = {f"torchinductor_{getpass.getuser()}"}  # once, when it is imported
    assert {path.name for path in server.temporary.iterdir()} <= made_by_libraries
