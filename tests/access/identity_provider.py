"""A small identity provider on a loopback port, over https with a certificate of its own authority."""

import base64
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.dicomweb.certificates import self_signed

AUDIENCE = "liverloop"
REALM = "/realms/hospital"


class SigningKey:
    """A private key, and how it is listed."""

    def __init__(self, key_id: str, algorithm: str = "RS256", bits: int = 2048, curve: Any = None) -> None:
        self.key_id, self.algorithm = key_id, algorithm
        if algorithm.startswith("RS"):
            self.private: Any = rsa.generate_private_key(65537, bits)
            listed = jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        else:
            self.private = ec.generate_private_key(curve or ec.SECP256R1())
            listed = jwt.algorithms.ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        self.listed = {**listed, "kid": key_id, "use": "sig", "alg": algorithm}
        self.listed.pop("key_ops", None)


class IdentityProvider:
    """Lists `keys` and makes tokens; use it as a context manager.

    `answers` replaces what a path is answered with: (status, headers, body). `asked` counts requests by path. Who is in
    `users` gets a token for name and password, with these claims more; `forms` and `logins` are what was sent for that.
    """

    def __init__(self, folder: Path, keys: list[SigningKey]) -> None:
        self.keys = keys
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.seconds_a_byte = 0.0
        self.asked: Counter[str] = Counter()
        self.users: dict[tuple[str, str], dict[str, Any]] = {}
        self.forms: list[dict[str, str]] = []
        self.logins: list[str | None] = []
        self.certificates, context = self_signed(folder)
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
                provider.forms.append(dict(parse_qsl(sent, keep_blank_values=True)))
                provider.logins.append(self.headers["Authorization"])
                self.do_GET()

            def do_GET(self) -> None:
                provider.asked[self.path] += 1
                status, headers, body = provider._answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if not provider.seconds_a_byte:
                    self.wfile.write(body)
                    return
                with suppress(OSError):  # whoever asked has had enough
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(provider.seconds_a_byte)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"https://127.0.0.1:{self._server.server_port}"
        self.issuer = self.address + REALM
        self.discovery = f"{REALM}/.well-known/openid-configuration"
        self.certs, self.token_path = f"{REALM}/certs", f"{REALM}/token"

    def __enter__(self) -> "IdentityProvider":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What Keycloak says of a user; None leaves a claim out."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": [AUDIENCE, "account"],
            "sub": "f3b1-7",
            "exp": now + 300,
            "iat": now,
            "typ": "Bearer",
            "preferred_username": "ann",
            "realm_access": {"roles": ["offline_access", "liverloop-annotators"]},
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, key: SigningKey | None = None, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        key = key or self.keys[0]
        headers = {"kid": key.key_id, **(headers or {})}
        return jwt.encode(self.claims(**changes), key.private, key.algorithm, headers=headers)

    def _answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if path in self.answers:
            return self.answers[path]
        if path == self.discovery:
            about = {
                "issuer": self.issuer,
                "jwks_uri": self.address + self.certs,
                "token_endpoint": self.address + self.token_path,
            }
            return 200, {}, json.dumps(about).encode()
        if path == self.token_path and self.forms:
            return self._given(self.forms[-1])
        if path == self.certs:
            return 200, {}, json.dumps({"keys": [key.listed for key in self.keys]}).encode()
        return 404, {}, b"{}"

    def _given(self, form: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        claims = self.users.get((form.get("username", ""), form.get("password", "")))
        if claims is None:
            return 401, {}, json.dumps({"error": "invalid_grant", "error_description": "Invalid credentials"}).encode()
        token = self.token(**{"preferred_username": form["username"], **claims})
        return 200, {}, json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 300}).encode()


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """A token as an attacker writes it."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
