"""Find and repair whatever disagrees between the files of a studies folder and its ledger.

Both work while a server runs: everything found is looked at once more before it is called a disagreement.
Repairs only add, move aside or show again; what an annotator made is never deleted.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from sqlalchemy import Update, delete, select, update

from lib.errors import LiverLoopError, StorageError
from lib.files import atomic_write
from lib.store import images, leases, refused
from lib.store.events import SERVER, record
from lib.store.findings import TEMPORARY, Finding, Kind, Search
from lib.store.layout import REFUSED, STORED, Layout
from lib.store.listing import chunks, named_files, unfit_name, visible
from lib.store.records import Records, ids_after, of_images
from lib.store.schema import events, labels, presegmentations
from lib.store.store import Store
from lib.volume_io import IMAGE_SUFFIXES, LABEL_SUFFIXES

Progress = Callable[[int], object]

REMAINS = "remains for a person"  # in a line of `repair`
_PAGE = 500  # images
_LOOKS = 10  # at an image that somebody works on
_PAUSE_S = 2.0  # longer than from a label's file to its row, and from there to the folder
_LOOK = {Kind.IMAGE_GONE, Kind.IMAGE_CHANGED, Kind.IMAGE_BACK, Kind.IMAGE_NEW, Kind.LABEL_WAITING}  # a rescan's work


def check(store: Store, progress: Progress | None = None, *, deep: bool = True) -> list[Finding]:
    """Everything that disagrees, by image.

    Args:
        store: the studies folder.
        progress: called with the number of images looked at so far.
        deep: read every version and label and compare its hash; False: compare sizes and times, and read only files
            that were changed.

    Raises:
        StorageError: the ledger can't be read.
        OSError: a file is there but can't be read.
    """
    search = Search(store.layout, _tags(store.layout), deep, store.images.in_folder)
    first: list[Finding] = []
    done = 0
    for page in _pages(store):
        for records in page:
            first.extend(search.of_image(records))
        done += len(page)
        if progress is not None:
            progress(done)
    found = _confirmed(store, search, first)
    for path in _outside_of_images(store.layout):
        found.extend(search.left_over(path))
    return found


def repair(store: Store, findings: Iterable[Finding], progress: Progress | None = None) -> list[str]:
    """Do what can be done about findings without losing anything.

    Args:
        store: the studies folder.
        findings: of `check`; those that are no longer true are left alone.
        progress: called with the number of images repaired so far.

    Returns:
        One sentence for each thing done, and for each that remains for a person.

    Raises:
        StorageError: disk or ledger refused.
    """
    search = Search(store.layout, _tags(store.layout), deep=True, images_in_folder=store.images.in_folder)
    wanted = list(findings)
    done: list[str] = []
    for finding in wanted:
        if finding.image_id is None and finding.path is not None:
            (store.layout.studies / finding.path).unlink(missing_ok=True)
            done.append(f"{finding.path}: removed, it was never finished")
    image_ids = list(dict.fromkeys(finding.image_id for finding in wanted if finding.image_id is not None))
    # What is missing is shown again before the folder is looked through, which would take the label for withdrawn.
    for number, image_id in enumerate(image_ids, start=1):
        for finding in _of_image(store, search, image_id):
            if finding in wanted and finding.kind not in _LOOK:
                done.extend(_repaired(store, search, finding))
        if progress is not None:
            progress(number)
    if any(finding.kind in _LOOK and finding.repair for finding in wanted):
        store.rescan()
        done.append("looked through the folder, and noted the images and labels that are new, changed or gone")
    for image_id in image_ids:
        for finding in _of_image(
            store, search, image_id
        ):  # what follows from a repair, such as a lease of a gone image
            if finding.kind not in _LOOK:
                done.extend(_repaired(store, search, finding))
        for finding in _of_image(store, search, image_id):
            done.append(f"{_name(finding)}: {REMAINS}: {finding.explanation}")
    return done


def _of_image(store: Store, search: Search, image_id: str) -> list[Finding]:
    """The disagreements about an image; none while somebody keeps changing what the ledger holds about it."""
    records = _records(store, image_id)
    for _ in range(_LOOKS):
        found = search.of_image(records)
        before, records = records, _records(store, image_id)
        if records == before:  # so that files and rows are of one moment
            return found
    return []


def _records(store: Store, image_id: str) -> Records:
    with store.ledger.reading() as connection:
        return of_images(connection, [image_id])[0]


def _confirmed(store: Store, search: Search, found: Sequence[Finding]) -> list[Finding]:
    """Those that a second look finds as well: what is being saved is on disk, in the ledger and shown one by one."""
    if not found:
        return []
    time.sleep(_PAUSE_S)
    image_ids = dict.fromkeys(str(finding.image_id) for finding in found)
    still = {finding for image_id in image_ids for finding in _of_image(store, search, image_id)}
    return [finding for finding in found if finding in still]


def _pages(store: Store) -> Iterator[list[Records]]:
    """Every image that the ledger knows, then those that only the folder has.

    Each page is a transaction of its own: an open one would keep SQLite's log growing for hours.
    """
    after = ""
    while True:
        with store.ledger.reading() as connection:
            image_ids = ids_after(connection, after, _PAGE)
            page = of_images(connection, image_ids)
        if not page:
            break
        yield page
        after = image_ids[-1]
    unknown: set[str] = set()
    for names in chunks(_names_in_folder(store.layout), _PAGE):
        with store.ledger.reading() as connection:
            page = [records for records in of_images(connection, names) if not records.is_known]
        page = [records for records in page if records.image_id not in unknown]
        unknown.update(records.image_id for records in page)
        yield page


def _names_in_folder(layout: Layout) -> Iterator[str]:
    """Every name that an image or label in the folder has, or a folder of an image; some more than once."""
    for folder, suffixes in (
        (layout.studies, IMAGE_SUFFIXES),
        *((layout.labels / t, LABEL_SUFFIXES) for t in _tags(layout)),
    ):
        yield from (name for name, _ in named_files(folder, suffixes) if unfit_name(name, "image id") is None)
    for folder in (layout.versions, layout.presegmentations, layout.labels / REFUSED):
        yield from _folders_in(folder)


def _outside_of_images(layout: Layout) -> Iterator[Path]:
    """Files in the making in the folders that all images share."""
    for folder in (layout.studies, layout.labels, layout.ledger, *(layout.labels / tag for tag in _tags(layout))):
        yield from sorted(folder.glob(f"{TEMPORARY}*"))


def _tags(layout: Layout) -> list[str]:
    return sorted(name for name in _folders_in(layout.labels) if name != REFUSED)


def _folders_in(folder: Path) -> Iterator[str]:
    return (name for name in visible(folder) if unfit_name(name, "name") is None and (folder / name).is_dir())


def _repaired(store: Store, search: Search, finding: Finding) -> list[str]:
    """What was done, in a list of one sentence; empty where nothing can be done, which the last look then says."""
    if finding.repair is None:
        return []
    records = _records(store, str(finding.image_id))
    try:
        done = _REPAIRS[finding.kind](store, search, records, finding)
    except StorageError:
        raise
    except (LiverLoopError, FileNotFoundError) as error:
        return [f"{_name(finding)}: could not be repaired: {error}"]
    return [f"{_name(finding)}: {done}"] if done else []


def _name(finding: Finding) -> str:
    return finding.path or " ".join(part for part in (finding.image_id, finding.tag) if part)


def _reckon(store: Store, _: Search, records: Records, finding: Finding) -> str:
    with store.ledger.writing() as connection:
        images.reckon(connection, [records.image_id])
    return f"reckoned again what follows, {finding.explanation}"


def _bring_back(store: Store, search: Search, records: Records, finding: Finding) -> str | None:
    path = store.layout.studies / str(finding.path)
    version = next((one for one in records.versions if store.layout.versions / one.file == path), None)
    copy = search.copy_of(records, version) if version is not None else None
    if version is None or copy is None:
        return None
    if path.is_file():
        reason = f"damaged; version {version.number} was brought back from a copy"
        _set_aside(store, records.image_id, version.tag, path, reason)
    with atomic_write(path) as temporary:
        shutil.copyfile(copy, temporary)
    with store.ledger.writing() as connection:
        detail = {"version": version.number, "from": search.relative(copy)}
        record(connection, "version brought back", version.image_id, version.tag, detail=detail)
    return f"brought back from {search.relative(copy)}"


def _point_home(store: Store, _: Search, records: Records, finding: Finding) -> str:
    """A label shows its own newest version, or none so that the file in the folder is taken in."""
    tag = str(finding.tag)
    own = records.of_tag(tag)
    values = {"version_id": own[-1].id if own else None, "shown_size": None, "shown_modified_ns": None}
    with store.ledger.writing() as connection:
        connection.execute(_label(records.image_id, tag).values(values))
        detail = {"version": own[-1].number if own else None, "reason": finding.explanation}
        record(connection, "label set right", records.image_id, tag, detail=detail)
    if own:
        store.labels.show(records.image_id, tag)
        return f"shows version {own[-1].number} now"
    return _settle_waiting(store, records, tag)


def _settle_waiting(store: Store, records: Records, tag: str) -> str:
    if _files(store, records, tag):
        store.found_labels.take_in(records.image_id, tag)
        return "looked at the file in the folder again"
    store.found_labels.note_missing(records.image_id, tag)
    return "noted that the label is gone"


def _files(store: Store, records: Records, tag: str) -> list[Path]:
    row = records.shown(tag)
    return store.layout.shown_files(records.image_id, tag, row.suffix if row else STORED)


def _show(store: Store, _: Search, records: Records, finding: Finding) -> str:
    tag = str(finding.tag)
    row = records.shown(tag)
    if row is not None and row.version_id is None:
        return _settle_waiting(store, records, tag)
    _show_anew(store, records.image_id, tag)
    return "shown again"


def _show_anew(store: Store, image_id: str, tag: str) -> None:
    """Write the file in `labels/<tag>/`, whatever was noted about it; another's work there is moved aside by `show`."""
    with store.ledger.writing() as connection:
        connection.execute(_label(image_id, tag).values(shown_size=None, shown_modified_ns=None))
    store.labels.show(image_id, tag)


def _take_in(store: Store, _: Search, records: Records, finding: Finding) -> str:
    tag = str(finding.tag)
    version = store.found_labels.take_in(records.image_id, tag)
    if len(_files(store, records, tag)) > 1:
        _show_anew(store, records.image_id, tag)
    return f"is version {version.number} now" if version else "looked at again"


def _keep_aside(store: Store, _: Search, records: Records, finding: Finding) -> str:
    path = store.layout.studies / str(finding.path)
    kept = _set_aside(store, records.image_id, finding.tag, path, finding.explanation)
    return f"kept as {kept}"


def _forget_presegmentation(store: Store, _: Search, records: Records, finding: Finding) -> str:
    with store.ledger.writing() as connection:
        for row in records.presegmentations:
            if (store.layout.presegmentations / row["file"]) != store.layout.studies / str(finding.path):
                continue
            key = (presegmentations.c.image_id == row["image_id"], presegmentations.c.client_id == row["client_id"])
            connection.execute(delete(presegmentations).where(*key, presegmentations.c.file == row["file"]))
            detail = {"client_id": row["client_id"], "model_version": row["model_version"]}
            record(connection, "pre-segmentation lost", records.image_id, detail=detail)
    return "taken out of the ledger"


def _free(store: Store, _: Search, records: Records, finding: Finding) -> str | None:
    with store.ledger.writing() as connection:
        freed = leases.free(connection, records.image_id, actor=SERVER, why=finding.explanation)
    return f"taken back from {freed.client_id}" if freed else None


def _note_reason(store: Store, _: Search, records: Records, finding: Finding) -> str:
    path = store.layout.studies / str(finding.path)
    query = select(events).where(events.c.image_id == records.image_id, events.c.kind == "label refused")
    with store.ledger.reading() as connection:
        noted = [row for row in connection.execute(query) if row.detail.get("file") == finding.path]
    event = noted[-1] if noted else None
    reason = event.detail.get("reason") if event else None
    refused.write_reason(
        path,
        records.image_id,
        event.tag if event else None,
        reason or refused.NO_REASON,
        event.actor if event else SERVER,
        leases.iso_time(event.at if event else path.stat().st_mtime),
    )
    return "its reason is written beside it again" if reason else "noted that nobody knows the reason any more"


def _set_aside(store: Store, image_id: str, tag: str | None, path: Path, reason: str) -> str:
    """Move a file to the refused ones and note that; returns where it is, relative to the studies folder."""
    moved = refused.set_aside(store.layout, image_id, tag, path, reason, SERVER)
    kept = moved.relative_to(store.layout.studies).as_posix()
    with store.ledger.writing() as connection:
        record(connection, "file set aside", image_id, tag, detail={"reason": reason, "file": kept})
    return kept


def _label(image_id: str, tag: str) -> Update:
    return update(labels).where(labels.c.image_id == image_id, labels.c.tag == tag)


_REPAIRS: dict[Kind, Callable[[Store, Search, Records, Finding], str | None]] = {
    Kind.FLAGS: _reckon,
    Kind.VERSION_LOST: _bring_back,
    Kind.VERSION_DAMAGED: _bring_back,
    Kind.NO_VERSION: _keep_aside,
    Kind.LABEL_ELSEWHERE: _point_home,
    Kind.LABEL_NOT_SHOWN: _show,
    Kind.LABEL_MISSING: _show,
    Kind.LABEL_OUTDATED: _show,
    Kind.LABEL_DAMAGED: _show,
    Kind.LABEL_FOREIGN: _take_in,
    Kind.LABEL_FORMATS: _take_in,
    Kind.PRESEGMENTATION_LOST: _forget_presegmentation,
    Kind.PRESEGMENTATION_UNKNOWN: _keep_aside,
    Kind.LEASE_EXPIRED: _free,
    Kind.LEASE_POINTLESS: _free,
    Kind.REASON_LOST: _note_reason,
    Kind.LEFT_OVER: _keep_aside,
}
