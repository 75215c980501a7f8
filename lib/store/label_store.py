"""Labels: every one a version that is kept, the newest shown in `labels/<tag>/`, refused ones kept aside.

A label's file is complete on disk before a row names it, and its row is committed before it is shown, so that the
ledger is right at any moment and the folder can be brought in line with it.
"""

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, update

from lib.errors import BadInputError, LiverLoopError, NotFoundError
from lib.files import atomic_write, file_sha256, sync_folder
from lib.labels import names_for_clients
from lib.looked_at import slices_looked_at
from lib.settings import Settings
from lib.store import images, leases, pool, presegmentations, refused, version_files, versions
from lib.store.comparison import Comparison, change_of, compare, count_voxels
from lib.store.door import checked_label, named_in_errors
from lib.store.events import SERVER, record
from lib.store.image_files import FolderImages, ImageFiles
from lib.store.images import FileState
from lib.store.layout import FINAL, ORIGINAL, STORED, Layout, checked_tag
from lib.store.ledger import Ledger
from lib.store.meaning import DECIDED, INDICES, LOOKED_AT, SLICES, meant, names_to_map
from lib.store.schema import labels as labels_table
from lib.store.schema import versions as versions_table
from lib.store.versions import Version
from lib.volume import Grid, Volume
from lib.volume_io import read_label

logger = logging.getLogger(__name__)


Noting = Callable[[Connection, Version], object]


class OvertakenError(Exception):
    """What was about to be saved is no longer to be: somebody else was first."""


class LabelStore:
    """The labels of a studies folder.

    Args:
        ledger: what is known.
        layout: where files lie.
        settings: classes and limits.
        files: where images come from; None: the studies folder.
    """

    def __init__(
        self,
        ledger: Ledger,
        layout: Layout,
        settings: Settings,
        files: ImageFiles | None = None,
        on_version: Callable[[Version], object] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._layout = layout
        self._settings = settings
        self._files = files or FolderImages(ledger, layout)
        self._on_version = on_version

    def save(
        self,
        image_id: str,
        path: str | Path,
        tag: str,
        info: Mapping[str, Any] | None = None,
        *,
        author: str,
        source: str = "client",
        noting: Noting | None = None,
    ) -> Version:
        """Check a label against its image, keep it as a new version and show it.

        Args:
            image_id: the image it belongs to.
            path: what was sent.
            tag: `"final"`, `"original"` or another.
            info: what the client says about it; `label_info` names its values, `looked_at` the axial slices that
                somebody judged if not all, see `lib.looked_at.slices_in`.
            author: client or user.
            source: how it came here, see `lib.store.schema.versions`.
            noting: called with the new version in the transaction that adds it; what it raises undoes that.

        Raises:
            NotFoundError: no image has this id; if there was one, the label is kept in `labels/refused/` as well.
            BadInputError: it doesn't fit its image or names an unknown segment; it is kept in `labels/refused/`, and
                the message says where.
            StorageError: the disk or the ledger refused.
        """
        checked_tag(tag)
        path = Path(path)
        info = dict(info or {})
        try:
            with named_in_errors(path, f"label for image {image_id!r}"):
                grid, before = self.grid(image_id), self._before(image_id, tag, author)
                label = self.checked(path, grid, info.get("label_info"), info.get("looked_at"), before)
            described = self.described(info, label)
            version = self.keep(image_id, tag, path, label, described, author=author, source=source, noting=noting)
        except (BadInputError, NotFoundError) as error:
            if not self._was_known(image_id):  # or anybody could fill the disk under any name
                raise
            kept = self.refuse(image_id, tag, path, str(error), author)
            msg = f"{error} (what was sent is kept as {kept.relative_to(self._layout.studies)})"
            raise type(error)(msg) from error
        self.show(image_id, tag)
        return version

    def remap(self, image_id: str, tag: str) -> Version | None:
        """Make a new version of a label whose values mean something else since the site changed its classes.

        Returns:
            None where the values are right, where a class it holds is gone (then it is no longer used), or where
            somebody saved a newer one meanwhile.

        Raises:
            StorageError: the disk or the ledger refused.
        """
        with self._ledger.reading() as connection:
            current = versions.current(connection, image_id, tag)
            row = versions.shown(connection, image_id, tag)
        if current is None or row is None or row.version_id != current.id:
            return None
        names = names_to_map(current.info, self._settings)
        if not names:
            if row.problem is not None:  # a class that was gone is back
                self._note_problem(current, None)
            return None
        try:
            label = self.checked(self.path(current), self.grid(image_id), names)
        except LiverLoopError as error:
            self._note_problem(current, str(error))
            logger.warning("the label %s of %s is not used: %s", tag, image_id, error)
            return None
        info = {**current.info, "label_info": names}
        try:
            version = self.keep(
                image_id,
                tag,
                self.path(current),
                label,
                self.described(info, label),
                author=SERVER,
                source="remapped",
                expected=row,
            )
        except OvertakenError:
            return None
        self.show(image_id, tag)
        return version

    def restore(self, image_id: str, tag: str, number: int, *, author: str) -> Version:
        """Make an old version the newest again: a new version with the same content.

        Raises:
            NotFoundError: there is no such image or version.
            BadInputError: the version's file is damaged.
            StorageError: the disk or the ledger refused.
        """
        grid = self.grid(image_id)
        with self._ledger.reading() as connection:
            old = versions.get(connection, image_id, checked_tag(tag), number)
        source = version_files.verified(self._layout, old)
        names = names_to_map(old.info, self._settings)  # its values are the indices of then
        label = self.checked(source, grid, names or old.info.get("label_info"))
        info = self.described({**old.info, "label_info": names}, label) if names else old.info
        version = self.keep(image_id, tag, source, label, info, author=author, source="restored", restored_from=number)
        self.show(image_id, tag)
        return version

    def withdraw(self, image_id: str, tag: str, *, author: str) -> None:
        """Take a label back: it is no longer shown nor trained on; its versions stay.

        Raises:
            NotFoundError: the image has no label of this tag.
            StorageError: the disk or the ledger refused.
        """
        with self._ledger.reading() as connection:
            row = versions.shown(connection, image_id, checked_tag(tag))
        if row is None:
            msg = f"there is no label {image_id[:80]!r} with the tag {tag[:80]!r}"
            raise NotFoundError(msg)
        if row.version_id is None:  # not a version yet: the only copy
            for path in self._layout.shown_files(image_id, tag, row.suffix):
                self.refuse(image_id, tag, path, f"withdrawn by {author} before it was taken in", author, move=True)
        self.forget(image_id, tag, "label withdrawn", author)

    def show(self, image_id: str, tag: str) -> None:
        """Bring `labels/<tag>/` in line with the ledger; does nothing where it is.

        Raises:
            StorageError: the disk or the ledger refused.
        """
        # Within a transaction, since writers come one at a time: an older version can't be shown last.
        with self._ledger.writing() as connection:
            current = versions.current(connection, image_id, tag)
            if current is None:
                return
            row = versions.shown(connection, image_id, tag)
            if row is not None and self.is_shown(self._layout.shown(image_id, tag, row.suffix), row):
                return
            path = self._layout.shown(image_id, tag)
            self._keep_others_work(connection, image_id, tag)
            with atomic_write(path) as temporary:
                shutil.copyfile(self.path(current), temporary)
            # In every format: one that was there before would pass for the label, too.
            for other in self._layout.shown_files(image_id, tag):
                if other != path:
                    other.unlink()
            self._set_shown(connection, current, FileState.of(path, STORED))

    def keep_presegmentation(self, image_id: str, client_id: str, model_version: str, path: str | Path) -> None:
        """Keep what a model made for a client, to tell later what was corrected in it.

        Args:
            image_id: of an image in the folder.
            client_id: who got it; a newer one for the same client takes its place.
            model_version: of the model that made it.
            path: the label as it was sent.

        Raises:
            NotFoundError: no image has this id.
            BadInputError: it is not a label.
            StorageError: the disk or the ledger refused.
        """
        presegmentations.keep(self._ledger, self._layout, image_id, client_id, model_version, Path(path))

    def history(self, image_id: str, tag: str | None = None) -> list[Version]:
        """Every version of an image's labels, the newest first.

        Raises:
            NotFoundError: neither such an image nor a version of its labels is known.
        """
        with self._ledger.reading() as connection:
            found = versions.history(connection, image_id, tag)
            if not found:  # versions outlive their image
                images.get(connection, image_id)
        return found

    def diff(self, image_id: str, tag: str, first: int, second: int) -> Comparison:
        """Compare two versions of a label, see `lib.store.comparison.compare`.

        Raises:
            NotFoundError: there is no such version.
            BadInputError: a version's file is damaged, or the image was another one then.
        """
        with self._ledger.reading() as connection:
            pair = [versions.get(connection, image_id, checked_tag(tag), number) for number in (first, second)]
        before, after = (meant(version_files.verified(self._layout, one), one.info, self._settings) for one in pair)
        return compare(before.array, after.array, self._settings.label_indices(), after.voxel_ml)

    def _was_known(self, image_id: str) -> bool:
        with self._ledger.reading() as connection:
            return images.is_known(connection, image_id)

    def _note_problem(self, version: Version, problem: str | None) -> None:
        """Why a version is not used, while it is the current one."""
        with self._ledger.writing() as connection:
            key = labels_table.c.version_id == version.id
            connection.execute(update(labels_table).where(key).values(problem=problem))

    def path(self, version: Version) -> Path:
        """The version's own file."""
        return self._layout.versions / version.file

    def grid(self, image_id: str) -> Grid:
        """Where the voxels of an image lie.

        Raises:
            NotFoundError: no image has this id.
            BadInputError: its header can't be read.
            StorageError: it had to be fetched, and that failed.
        """
        return self._files.grid(image_id)

    def checked(
        self,
        path: Path,
        grid: Grid,
        names: Sequence[Mapping[str, Any]] | None,
        looked_at: Any = None,
        before: Iterable[Volume] | None = None,
    ) -> Volume:
        """A label on its image's grid with our indices, see `lib.store.door.checked_label`."""
        tolerance_mm = self._settings.limits.affine_tolerance_mm
        arrays = None if before is None else (label.array for label in before if label.shape == grid.shape)
        limits = self._settings.limits.of_files()
        return checked_label(path, grid, names, self._settings.labels, tolerance_mm, looked_at, arrays, limits)

    def _before(self, image_id: str, tag: str, author: str) -> Iterator[Volume]:
        """What a client may have made its label from: what a model made, and the label there is; read when needed."""
        with self._ledger.reading() as connection:
            automatic = presegmentations.find(connection, self._layout, image_id, author)
            current = versions.current(connection, image_id, tag)
        found: list[tuple[Path, Version | None]] = [(automatic[0], None)] if automatic else []
        found += [(self.path(current), current)] if current else []
        for path, version in found:
            try:
                yield meant(path, version.info, self._settings) if version else read_label(path)
            except LiverLoopError as error:  # gone, or of classes that are no more
                logger.warning("not compared: %s", error)

    def described(self, info: Mapping[str, Any], label: Volume) -> dict[str, Any]:
        """What is noted about a label that went through the door: its values are our indices."""
        indices = self._settings.label_indices()
        described = {key: value for key, value in info.items() if key not in {*DECIDED, "looked_at"}}
        if info.get("label_info"):
            described["client_label_info"] = info["label_info"]
        seen = slices_looked_at(label)
        partly = {} if seen is None else dict(zip((LOOKED_AT, SLICES), seen, strict=True))
        return described | {
            "label_info": names_for_clients(indices, partly=seen is not None),
            INDICES: indices,
            **partly,
            "ts": int(time.time()),
        }

    def keep(
        self,
        image_id: str,
        tag: str,
        sent: Path,
        label: Volume,
        info: Mapping[str, Any],
        *,
        author: str,
        source: str,
        restored_from: int | None = None,
        expected: versions.Shown | None = None,
        noting: Noting | None = None,
    ) -> Version:
        """The version's file first, then its row; `show` comes after both.

        Args:
            expected: of a file that lies in the folder, the row it was compared with.
            noting: see `save`.

        Raises:
            OvertakenError: that row has changed since, or `noting` raised it.
        """
        voxels = count_voxels(label.array, self._settings.label_indices())
        file, sent_file = version_files.write(self._layout, image_id, tag, sent, label)
        made = self._layout.versions / file
        values = {
            "image_id": image_id,
            "tag": tag,
            "file": file.as_posix(),
            "size": made.stat().st_size,
            "sha256": file_sha256(made),
            "sent": sent_file and sent_file.as_posix(),
            "author": author,
            "source": source,
            "restored_from": restored_from,
            "voxels": voxels,
            "ml": {name: count * label.voxel_ml for name, count in voxels.items()},
            "info": {**info, "name": f"{image_id}{STORED}"},
            **self._against_presegmentation(image_id, tag, label, info, author),
        }
        version = None
        while version is None:  # again where another client saved in between; each time somebody got further
            with self._ledger.reading() as connection:
                previous = versions.current(connection, image_id, tag)
            values["against_previous"] = self._compared(self.path(previous), label, previous) if previous else None
            decisive = values["against_presegmentation"] or values["against_previous"]
            values["change"] = change_of(decisive) if decisive else None
            try:
                version = self._record(values, previous, expected, noting)
            except (OvertakenError, BadInputError, NotFoundError):
                for path in (file, sent_file):  # copies of what the caller has, named by no row
                    if path is not None:
                        (self._layout.versions / path).unlink()
                raise
        self._on_version(version)
        return version

    def _record(
        self,
        values: Mapping[str, Any],
        previous: Version | None,
        expected: versions.Shown | None,
        noting: Noting | None,
    ) -> Version | None:
        """Add the row and make it the current one; None where `previous` is no longer the version before."""
        image_id, tag, author = values["image_id"], values["tag"], values["author"]
        with self._ledger.writing() as connection:
            image = images.get(connection, image_id)
            if expected is not None and versions.shown(connection, image_id, tag) != expected:
                raise OvertakenError
            current = versions.current(connection, image_id, tag)
            if (current and current.id) != (previous and previous.id):
                return None
            last = versions.newest(connection, image_id, tag)
            lease = leases.of_image(connection, image_id)
            now = time.time()
            row = {
                **values,
                "number": last.number + 1 if last else 1,
                "saved_at": now,
                "seconds_since_lease": now - lease.acquired_at if lease and lease.client_id == author else None,
            }
            inserted = connection.execute(insert(versions_table).values(row)).inserted_primary_key
            version = Version(id=int(inserted[0]), **row) if inserted else None
            assert version is not None  # both databases give the key
            self._point_to(connection, version)
            if tag == FINAL:
                pool.note_final(connection, version)
                # Who restores an old version, or works in another viewer, doesn't end what somebody else is at.
                if values["source"] not in ("restored", "pacs") or (lease and lease.client_id == author):
                    leases.free(connection, image_id, actor=author, why="saved")
                if not image.labelled:
                    images.reckon(connection, [image_id])
            if noting is not None:
                noting(connection, version)
        return version

    def _against_presegmentation(
        self, image_id: str, tag: str, label: Volume, info: Mapping[str, Any], author: str
    ) -> dict[str, Any]:
        """Which model version the label started from, and what is different now."""
        if tag == ORIGINAL:
            params = info.get("params")  # a client may have put anything there
            made_by = params.get("model_version") if isinstance(params, Mapping) else None
            return {"model_version": str(made_by) if made_by else None, "against_presegmentation": None}
        with self._ledger.reading() as connection:
            automatic = presegmentations.find(connection, self._layout, image_id, author)
        if automatic is None:
            return {"model_version": None, "against_presegmentation": None}
        path, model_version = automatic
        return {"model_version": model_version, "against_presegmentation": self._compared(path, label)}

    def _point_to(self, connection: Connection, version: Version) -> None:
        """Make a version the current one of its tag, to be shown."""
        values = {
            "suffix": STORED,
            "version_id": version.id,
            "problem": None,
            "info": None,
            "shown_size": None,
            "shown_modified_ns": None,
        }
        key = (labels_table.c.image_id == version.image_id, labels_table.c.tag == version.tag)
        if not connection.execute(update(labels_table).where(*key).values(values)).rowcount:
            connection.execute(insert(labels_table).values(image_id=version.image_id, tag=version.tag, **values))

    def _compared(self, path: Path, label: Volume, version: Version | None = None) -> Comparison | None:
        """None where it is gone or of another image; a label is never refused because of that."""
        try:
            before = meant(path, version.info, self._settings) if version else read_label(path)
            return compare(before.array, label.array, self._settings.label_indices(), label.voxel_ml)
        except LiverLoopError as error:
            logger.warning("not compared: %s", error)
            return None

    def refuse(self, image_id: str, tag: str, path: Path, reason: str, author: str, *, move: bool = False) -> Path:
        """Keep a label that doesn't fit beside the reason; returns where."""
        keep = refused.set_aside if move else refused.keep_copy
        kept = keep(self._layout, image_id, tag, path, reason, author)
        with self._ledger.writing() as connection:
            self._note_refused(connection, image_id, tag, kept, reason, author)
        return kept

    def _note_refused(
        self, connection: Connection, image_id: str, tag: str, kept: Path, reason: str, author: str
    ) -> None:
        detail = {"reason": reason, "file": str(kept.relative_to(self._layout.studies))}
        record(connection, "label refused", image_id, tag, actor=author, detail=detail)

    def _keep_others_work(self, connection: Connection, image_id: str, tag: str) -> None:
        """Move aside what another program wrote into `labels/<tag>/` and nobody has seen yet."""
        known = versions.history(connection, image_id, tag)
        row = versions.shown(connection, image_id, tag)
        for file in self._layout.shown_files(image_id, tag, row.suffix if row else STORED):
            sha256 = file_sha256(file)
            repeats = [version for version in known if version_files.comes_from(version, sha256)]
            if any(self._has_its_size(version) for version in repeats):
                continue
            reason = "another program wrote it while the label was saved or taken back"
            if repeats:  # the only copy by now
                reason = f"the file of version {repeats[0].number}, which this was shown for, is lost or damaged"
            kept = refused.set_aside(self._layout, image_id, tag, file, reason, SERVER)
            self._note_refused(connection, image_id, tag, kept, reason, SERVER)

    def _has_its_size(self, version: Version) -> bool:
        path = self.path(version)
        return path.is_file() and path.stat().st_size == version.size

    def forget(self, image_id: str, tag: str, kind: str, actor: str, *, expected: versions.Shown | None = None) -> None:
        """No longer the image's label, and no longer shown.

        Args:
            expected: of a label whose file was found missing, its row then; if that has changed since, or the file is
                there again, nothing is done.
        """
        aside: list[tuple[Path, Path]] = []
        try:
            with self._ledger.writing() as connection:
                current = versions.current(connection, image_id, tag)
                row = versions.shown(connection, image_id, tag)
                back = expected is not None and self._layout.shown_files(image_id, tag, expected.suffix)
                if back or (expected is not None and row != expected):
                    return
                key = (labels_table.c.image_id == image_id, labels_table.c.tag == tag)
                connection.execute(delete(labels_table).where(*key))
                detail = {"version": current.number} if current else {}
                record(connection, kind, image_id, tag, actor=actor, detail=detail)
                images.reckon(connection, [image_id])
                self._keep_others_work(connection, image_id, tag)
                # Hidden before the commit, so that a crash after it can't bring the label back; removed after it, so
                # that a ledger that refuses takes nothing away.
                for path in self._layout.shown_files(image_id, tag, row.suffix if row else STORED):
                    hidden = path.with_name(f".writing-{secrets.token_hex(8)}-{path.name[-24:]}")
                    path.replace(hidden)
                    aside.append((path, hidden))
                if self._layout.tag(tag).is_dir():
                    sync_folder(self._layout.tag(tag))
        except BaseException:
            for path, hidden in aside:
                hidden.replace(path)
            raise
        for _, hidden in aside:
            hidden.unlink(missing_ok=True)

    def is_shown(self, path: Path, row: versions.Shown | None) -> bool:
        """Whether a file in `labels/<tag>/` is the one that was put there for what the ledger says."""
        if row is None or row.shown_size is None or path.name != f"{row.image_id}{row.suffix}":
            return False
        try:
            status = path.stat()
        except FileNotFoundError:
            return False
        return (status.st_size, status.st_mtime_ns) == (row.shown_size, row.shown_modified_ns)

    def note_shown(self, version: Version, file: FileState | None) -> None:
        """Note which file in `labels/<tag>/` shows a version, with None that none does; not if it was superseded."""
        with self._ledger.writing() as connection:
            self._set_shown(connection, version, file)

    @staticmethod
    def _set_shown(connection: Connection, version: Version, file: FileState | None) -> None:
        values = {
            "suffix": file.suffix if file else STORED,
            "shown_size": file and file.size,
            "shown_modified_ns": file and file.modified_ns,
        }
        connection.execute(update(labels_table).where(labels_table.c.version_id == version.id).values(values))
