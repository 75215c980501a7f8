"""A server as a hospital has it: by https, on all addresses, with users of each role and an identity provider."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from monailabel.client import MONAILabelClient

from lib.access.roles import Role
from lib.phantom import Phantom
from lib.settings import load_settings
from lib.store.accounts import Accounts
from lib.store.opening import open_store
from lib.store.store import Store
from tests.access.identity_provider import AUDIENCE, IdentityProvider
from tests.dicomweb.certificates import self_signed
from tests.loop.attacked_server import AttackedServer
from tests.loop.preparation import Preparation
from tests.loop.running_server import APP, OURS, PATIENCE_S, make_app
from tests.loop.slicer_module import SlicerModule
from tests.loop.studies import write_studies

USERS = {"ann": Role.ANNOTATOR, "rob": Role.REVIEWER, "ada": Role.ADMIN}


@dataclass
class Site:
    """The running server and its users.

    Args:
        server: it.
        store: a second way into its ledger, as scripts have one.
        folder: of what clients keep.
        cases: phantoms by image id.
        passwords: by user.
    """

    server: AttackedServer
    store: Store
    folder: Path
    cases: dict[str, Phantom]
    passwords: dict[str, str] = field(default_factory=dict)

    @property
    def accounts(self) -> Accounts:
        """What scripts/users.py works on."""
        return Accounts(self.store.ledger)

    def add(self, name: str, role: Role) -> str:
        """A new user; the name."""
        self.passwords[name] = secrets.token_urlsafe()
        self.accounts.add(name, self.passwords[name], role, by="test")
        return name

    def token(self, name: str) -> str:
        """Of a new login."""
        form = {"username": name, "password": self.passwords[name]}
        answer = requests.post(f"{self.server.url}/auth/token", data=form, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def ask(self, method: str, path: str, name: str, **options: Any) -> Any:
        """A request of a user."""
        headers = {"Authorization": f"Bearer {self.token(name)}"}
        answer = self.server.ask(method, path, headers=headers, **options)
        assert answer.status == 200, answer
        return answer.reason

    def client(self, name: str) -> MONAILabelClient:
        """A user's client, logged in, which says that it is somebody else's."""
        client = MONAILabelClient(self.server.url, str(self.folder), client_id="mallory")
        assert client.auth_enabled()
        assert not client.auth_valid_token()
        client.update_auth(client.auth_token(name, self.passwords[name]))
        assert client.auth_valid_token()
        return client

    def slicer(self, name: str, password: str | None = None) -> SlicerModule:
        """A user's 3D Slicer, where the name in the settings is another."""
        login = (name, password or self.passwords[name])
        return SlicerModule(self.server.url, self.folder / secrets.token_hex(4), "mallory", login=login)


@contextmanager
def login_site(warm: Preparation, root: Path, provider: IdentityProvider) -> Iterator[Site]:
    """Write images, add the users, start the server."""
    studies, app = root / "studies", make_app(root / "app")
    cases = write_studies(studies, range(70, 80))
    for name in ("certificate", "clients"):
        (root / name).mkdir()
    certificate, _ = self_signed(root / "certificate")
    tls = ("--tls-certificate", str(certificate), "--tls-key", str(root / "certificate" / "key.pem"))
    conf = {
        "inference.engine": "pytorch",  # choosing another takes seconds
        "access.oidc.issuer": provider.issuer,
        "access.oidc.audience": AUDIENCE,
        "access.oidc.client_id": "liverloop-server",
        "access.oidc.roles": "{annotator: [liverloop-annotators]}",
        "access.oidc.certificates": str(provider.certificates),
    }
    store = open_store(studies, load_settings(APP / "app.yaml", {}), follow_classes=False)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):  # clients trust the certificate
            patch.setenv(variable, str(certificate))
        server = AttackedServer(
            warm, studies, root / "run", app=app, command=OURS, conf=conf,
            environment={"OMP_NUM_THREADS": "1"}, options=("--host", "0.0.0.0", *tls),
        )  # fmt: skip
        site = Site(server, store, root / "clients", cases)
        try:
            for name, role in USERS.items():
                site.add(name, role)
            with server:
                yield site
        finally:
            store.close()
