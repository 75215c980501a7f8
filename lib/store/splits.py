"""Who is for training and who for validation, as it was decided once; see `lib.training.split`."""

import hashlib
import secrets
import time
from collections.abc import Mapping

from sqlalchemy import Connection, insert, select

from lib.store.ledger import Ledger
from lib.store.schema import splits

SALT = "split_salt"  # the fact that holds it


def salt_of(ledger: Ledger, connection: Connection) -> str:
    """The ledger's salt, made at the first call; needs a transaction."""
    salt = ledger.fact(connection, SALT)
    if salt is None:
        salt = secrets.token_hex(16)
        ledger.set_fact(connection, SALT, salt)
    return salt


def decided(connection: Connection) -> dict[str, str]:
    """`{key of patient: "training" or "validation"}`."""
    return {row.patient: row.side for row in connection.execute(select(splits.c.patient, splits.c.side))}


def note(connection: Connection, sides: Mapping[str, str]) -> None:
    """Write down sides that were not decided yet; those that were stay as they are."""
    before = decided(connection)
    now = time.time()
    rows = [
        {"patient": patient, "side": side, "decided_at": now}
        for patient, side in sides.items()
        if patient not in before
    ]
    if rows:
        connection.execute(insert(splits), rows)


def key_of(patient: str, salt: str) -> str:
    """What stands for a patient in the ledger: a DICOM patient id is nobody else's business."""
    return hashlib.sha256(f"{salt}\n{patient}".encode()).hexdigest()[:32]
