import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lib.errors import BadInputError, LiverLoopError, NotFoundError, StorageError
from lib.web.launch_tls import CIPHERS, Tls, check_tls
from tests.dicomweb.certificates import self_signed


@pytest.fixture
def files(tmp_path):
    certificate, _ = self_signed(tmp_path)
    key = tmp_path / "key.pem"
    key.chmod(0o600)
    return certificate, key


def written_key(path, password=None):
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


def refused(certificate, key, now=None, error=BadInputError):
    with pytest.raises(LiverLoopError) as caught:
        check_tls(certificate, key, now)
    assert type(caught.value) is error
    return str(caught.value)


def test_without_any():
    assert check_tls(None, None) is None


def test_a_pair(files, monkeypatch):
    certificate, key = files
    assert check_tls(certificate, key) == Tls(certificate, key)
    monkeypatch.chdir(certificate.parent)
    assert check_tls(Path(certificate.name), Path(key.name)) == Tls(certificate, key)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_key_that_everybody_can_read(files, mode, warned):
    certificate, key = files
    key.chmod(mode)
    expected = (f"every user of this machine can read the key {key}; run chmod o= {key}",) if warned else ()
    assert check_tls(certificate, key).warnings == expected


def test_half_a_pair(files):
    certificate, key = files
    tail = "as well; give both, or none and let a proxy do TLS"
    assert refused(certificate, None) == f"--tls-certificate needs --tls-key {tail}"
    assert refused(None, key) == f"--tls-key needs --tls-certificate {tail}"


def test_files_that_are_not_there(files, tmp_path):
    certificate, key = files
    missing = tmp_path / "missing.pem"
    assert refused(missing, key, error=NotFoundError) == f"--tls-certificate {missing} does not exist; give a PEM file"
    assert refused(certificate, missing, error=NotFoundError) == f"--tls-key {missing} does not exist; give a PEM file"
    message = refused(tmp_path, key, error=StorageError)
    assert message == (
        f"--tls-certificate {tmp_path} can't be read (Is a directory); give a PEM file that this user may read"
    )


def test_a_key_of_another_certificate(files, tmp_path):
    other = written_key(tmp_path / "other.pem")
    assert refused(files[0], other) == (
        f"--tls-key {other} does not belong to --tls-certificate {files[0]}; give the key it was made with"
    )


def test_a_key_with_a_password(files, tmp_path):
    protected = written_key(tmp_path / "protected.pem", b"secret")
    assert refused(files[0], protected) == (
        f"--tls-key {protected} is protected by a password; give a key without one that only this user may read"
    )


def test_files_of_another_kind(files, tmp_path):
    text = tmp_path / "text.pem"
    text.write_text("no PEM")
    for pair in ((text, files[1]), (files[0], text), (files[1], files[0])):
        message = refused(*pair)
        assert message.startswith(f"--tls-certificate {pair[0]} and --tls-key {pair[1]} can't be used (")
        assert message.endswith("); give PEM files, the server's own certificate first")


def test_certificates_at_another_time(files):
    now = datetime.now(UTC)
    later, earlier = now + timedelta(days=9), now - timedelta(days=9)
    assert refused(*files, later) == (
        f"--tls-certificate {files[0]} ended on {now + timedelta(days=1):%Y-%m-%d}; get a new one"
    )
    assert refused(*files, earlier) == (
        f"--tls-certificate {files[0]} counts from {now - timedelta(days=1):%Y-%m-%d} only"
    )


def test_what_the_server_offers(files):
    """Nothing before TLS 1.2, and of that only suites with forward secrecy and authenticated encryption."""
    config = uvicorn.Config(lambda: None, ssl_certfile=files[0], ssl_keyfile=files[1], ssl_ciphers=CIPHERS)
    config.load()
    assert config.ssl.minimum_version >= ssl.TLSVersion.TLSv1_2
    suites = config.ssl.get_ciphers()
    assert {suite["protocol"] for suite in suites} == {"TLSv1.2", "TLSv1.3"}
    assert all(suite["aead"] for suite in suites)
    assert all("ECDHE" in suite["name"] for suite in suites if suite["protocol"] == "TLSv1.2")
