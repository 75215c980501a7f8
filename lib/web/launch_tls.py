"""Certificate and key of a server, looked at before it starts."""

import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lib.errors import BadInputError, NotFoundError, StorageError

# What uvicorn would take by itself lacks every suite of TLS 1.2 that is sound today. Those of TLS 1.3 always count.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True)
class Tls:
    """What a server shows and signs with.

    Args:
        certificate: PEM file, with those of the authorities between behind it.
        key: PEM file.
        warnings: what should be better.
    """

    certificate: Path
    key: Path
    warnings: tuple[str, ...] = ()


def check_tls(certificate: Path | None, key: Path | None, now: datetime | None = None) -> Tls | None:
    """Make sure that a server can use these files; None without any.

    Args:
        certificate: of `--tls-certificate`.
        key: of `--tls-key`.
        now: None for now.

    Raises:
        BadInputError: one of the two is missing, is no PEM file, or they don't belong together; the key has a
            password; or the certificate is not valid now.
        NotFoundError: there is no such file.
        StorageError: a file can't be read.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, other = ("--tls-key", "--tls-certificate") if certificate is None else ("--tls-certificate", "--tls-key")
        msg = f"{given} needs {other} as well; give both, or none and let a proxy do TLS"
        raise BadInputError(msg)
    for option, path in (("--tls-certificate", certificate), ("--tls-key", key)):
        _check_file(option, path)
    _check_pair(certificate, key)
    _check_dates(certificate, now or datetime.now(UTC))
    mode = key.stat().st_mode
    warnings = []
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        warnings.append(f"every user of this machine can read the key {key}; run chmod o= {key}")
    return Tls(certificate.resolve(), key.resolve(), tuple(warnings))


def _check_file(option: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError as error:
        msg = f"{option} {path} does not exist; give a PEM file"
        raise NotFoundError(msg) from error
    except OSError as error:
        msg = f"{option} {path} can't be read ({error.strerror}); give a PEM file that this user may read"
        raise StorageError(msg) from error


def _check_pair(certificate: Path, key: Path) -> None:
    def refuse() -> str:
        msg = f"--tls-key {key} is protected by a password; give a key without one that only this user may read"
        raise BadInputError(msg)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            msg = f"--tls-key {key} does not belong to --tls-certificate {certificate}; give the key it was made with"
        else:
            reason = error.reason or "no PEM files"
            msg = (
                f"--tls-certificate {certificate} and --tls-key {key} can't be used ({reason}); "
                "give PEM files, the server's own certificate first"
            )
        raise BadInputError(msg) from error


def _check_dates(certificate: Path, now: datetime) -> None:
    from cryptography import x509  # only where it is needed

    first, *_ = x509.load_pem_x509_certificates(certificate.read_bytes())
    if now >= first.not_valid_after_utc:
        msg = f"--tls-certificate {certificate} ended on {first.not_valid_after_utc:%Y-%m-%d}; get a new one"
        raise BadInputError(msg)
    if now < first.not_valid_before_utc:
        msg = f"--tls-certificate {certificate} counts from {first.not_valid_before_utc:%Y-%m-%d} only"
        raise BadInputError(msg)
