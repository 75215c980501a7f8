"""What is left after a soak: ledger and files, looked at without the server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.benchmarks.soak_cases import Cases
from lib.benchmarks.soak_journal import Journal
from lib.files import file_sha256
from lib.settings import Settings
from lib.store import audit, versions
from lib.store.figures import LedgerFigures
from lib.store.findings import Kind
from lib.store.layout import Layout
from lib.store.ledger import Ledger
from lib.store.records import ids_after
from lib.store.store import Store

_MOST_TOLD = 20
_OWN = {"ledger", "labels"}  # folders that the store makes


def training_counts(studies: Path) -> Mapping[str, int]:
    """How many trainings ended how, by the ledger of a folder on which a server runs."""
    ledger = Ledger(f"sqlite:///{Layout(studies).database}")
    counts = LedgerFigures(ledger).get().trainings
    ledger.close()
    return counts


def label_facts(studies: Path, settings: Settings, journal: Journal) -> dict[str, Any]:
    """Every version compared with what clients sent and were told, and the ledger with the folder.

    Returns:
        `acknowledged`: versions that clients were told of; `versions`: those in the ledger; `complaints` of the journal
        and `findings` of the audit, their first in words; `ledger_kb`: of the database for each version.
    """
    store = Store(studies, settings)
    try:
        with store.ledger.reading() as connection:
            kept = [one for image in ids_after(connection, "", 10**6) for one in versions.history(connection, image)]
        complaints = journal.complaints(kept, lambda version: _sha256(store.labels.path(version)))
        findings = [found for found in audit.check(store) if found.kind is not Kind.LEASE_EXPIRED]
    finally:
        store.close()
    size = Layout(studies).database.stat().st_size
    return {
        "acknowledged": len(journal.acknowledged),
        "versions": len(kept),
        "complaints": len(complaints),
        "findings": len(findings),
        "told": [*complaints, *(f"{one.kind}: {one.image_id} {one.explanation}" for one in findings)][:_MOST_TOLD],
        "ledger_kb": size / 1e3 / max(1, len(kept)),
    }


def folder_facts(cases: Cases) -> dict[str, list[str]]:
    """Images that were changed, and files beside them that nobody put there."""
    here = {path.name for path in cases.studies.iterdir()} - _OWN
    wanted = {cases.path(name).name: sha256 for name, sha256 in cases.sha256.items()}
    changed = [name for name, sha256 in wanted.items() if _sha256(cases.studies / name) != sha256]
    return {"images_changed": sorted(changed), "added": sorted(here - wanted.keys())}


def _sha256(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None
