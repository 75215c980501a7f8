"""Notice what others change in the studies folder while the server runs.

The system tells of files as they come and go, where it can; a look through the whole folder from time to time finds
the rest, such as what another computer does on a network share.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from lib.errors import LiverLoopError
from lib.store.layout import REFUSED, Layout
from lib.store.ledger import Ledger
from lib.store.scan import Changes, look_at

logger = logging.getLogger(__name__)

_QUIET_S = 0.2  # a file is looked at when nothing was told of it for so long
_UNSETTLED_S = 2.0  # until a file that was still being written is looked at again
_MOST_FILES = 10_000  # to be looked at one by one; a look through the whole folder costs less than more of them
_JOIN_S = 10.0
_KINDS: list[type[FileSystemEvent]] = [
    FileCreatedEvent, FileClosedEvent, FileMovedEvent, FileDeletedEvent,
    DirCreatedEvent, DirMovedEvent, DirDeletedEvent,
]  # fmt: skip


class Watcher:
    """Looks at files as they change and through the whole folder from time to time, in a thread of its own.

    The first look through the folder begins at the start. What goes wrong is logged, and the watching goes on.

    Args:
        ledger: what is known.
        layout: where files lie.
        on_change: called with what single files turned out to be, if anything changed.
        rescan: looks through the whole folder; of what it returns, the `unsettled` files of `Changes` are used.
        every_s: seconds from the end of one look through the folder to the next.
        of_images: whether images are what lies in the folder, see `lib.store.scan.scan`.

    Example:
        >>> with Watcher(ledger, layout, on_change, rescan, every_s=600):  # doctest: +SKIP
        ...     serve()
    """

    def __init__(
        self,
        ledger: Ledger,
        layout: Layout,
        on_change: Callable[[Changes], object],
        rescan: Callable[[], object],
        every_s: float,
        *,
        of_images: bool = True,
    ) -> None:
        self._ledger = ledger
        self._layout = layout
        self._on_change = on_change
        self._rescan = rescan
        self._every_s = every_s
        self._of_images = of_images
        self._due: dict[Path, float] = {}  # when each file is to be looked at, by the monotonic clock
        self._rescan_at = 0.0
        self._ready: list[Path] = []
        self._wakes_at = 0.0  # until when the worker sleeps, 0 if it doesn't
        self._stopped = False
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._observer: Any = None
        self._watches: dict[Path, Any] = {}

    def __enter__(self) -> "Watcher":
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Begin to watch; does nothing where it has begun."""
        if self._worker is not None:
            return
        self._stopped = False
        self._rescan_at = time.monotonic()
        self._begin_observing()
        self._worker = threading.Thread(target=self._work, name="watch-studies", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        """End the watching; a look through the folder that has begun is waited for some seconds only."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._worker is not None:
            self._worker.join(_JOIN_S)
            self._worker = None
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(_JOIN_S)
            self._observer = None
        self._watches.clear()

    def _begin_observing(self) -> None:
        try:
            self._observer = Observer()
            self._observer.start()
        except OSError as error:
            self._observer = None
            self._say_unwatched(self._layout.studies, error)
            return
        for folder in (self._layout.studies, self._layout.labels):
            self._observe(folder)
        self._observe_tags()

    def _observe_tags(self) -> None:
        # One by one: labels/refused has a folder for each image, and the system grants only so many watches.
        try:
            tags = [path for path in self._layout.labels.iterdir() if path.is_dir()]
        except OSError:
            return  # the rescan says what is wrong with it
        for tag in tags:
            if tag.name != REFUSED and not tag.name.startswith("."):
                self._observe(tag)

    def _observe(self, folder: Path) -> None:
        """Watch a folder anew: one that was removed and made again is another one."""
        if self._observer is None:
            return
        old = self._watches.pop(folder, None)
        if old is not None:
            self._observer.unschedule(old)
        if not folder.is_dir():
            return
        try:
            handler = _Handler(self._note)
            self._watches[folder] = self._observer.schedule(handler, str(folder), event_filter=_KINDS)
        except OSError as error:
            self._say_unwatched(folder, error)

    def _say_unwatched(self, folder: Path, error: OSError) -> None:
        logger.warning(
            "changes in %s are not noticed at once (%s; raise fs.inotify.max_user_instances or max_user_watches), but "
            "every %.0f s",
            folder, error.strerror, self._every_s,
        )  # fmt: skip

    def _note(self, path: Path, delay_s: float | None = None) -> None:
        """Have a file looked at; later where something is told of it again meanwhile."""
        with self._changed:
            at = time.monotonic() + (_QUIET_S if delay_s is None else delay_s)
            self._due[path] = at
            if len(self._due) > _MOST_FILES:
                self._due.clear()
                self._rescan_at = at
            if at < self._wakes_at:
                self._changed.notify()

    def _work(self) -> None:
        while (step := self._next()) is not None:
            what, action = step
            try:
                action()
            except (LiverLoopError, OSError) as error:
                logger.warning("%s can't be looked at now: %s", what, error)
            except Exception:
                logger.exception("looking at %s failed", what)

    def _next(self) -> tuple[str, Callable[[], None]] | None:
        """What is to be looked at next and how, waiting until it is due; None at the end."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if self._rescan_at <= now:
                    self._rescan_at = float("inf")
                    return str(self._layout.studies), self._look_through
                if not self._ready:
                    self._ready = [path for path, at in self._due.items() if at <= now]
                    for path in self._ready:
                        del self._due[path]
                if self._ready:
                    path = self._ready.pop()
                    return path.name, partial(self._look_at, path)
                self._wakes_at = min([self._rescan_at, *self._due.values()])
                self._changed.wait(self._wakes_at - now)
                self._wakes_at = 0.0
        return None

    def _look_through(self) -> None:
        try:
            found = self._rescan()
        finally:
            with self._changed:
                self._rescan_at = min(self._rescan_at, time.monotonic() + self._every_s)
        if isinstance(found, Changes):
            self._look_again(found)

    def _look_at(self, path: Path) -> None:
        if path.parent == self._layout.labels or path == self._layout.labels:
            self._observe_folder(path)
        changes = look_at(self._ledger, self._layout, path, of_images=self._of_images)
        if changes:
            self._on_change(changes)
        self._look_again(changes)

    def _observe_folder(self, path: Path) -> None:
        """Watch a folder of labels that has come; what lies in it already is found by looking at the folder."""
        if path == self._layout.labels:
            self._observe(path)
            self._observe_tags()
        elif path.name != REFUSED:
            self._observe(path)

    def _look_again(self, changes: Changes) -> None:
        for path in changes.unsettled:
            self._note(path, _UNSETTLED_S)


class _Handler(FileSystemEventHandler):
    """Passes on the paths of visible files and folders."""

    def __init__(self, note: Callable[[Path], None]) -> None:
        self._note = note

    def on_any_event(self, event: FileSystemEvent) -> None:
        for name in (event.src_path, event.dest_path):
            path = Path(os.fsdecode(name))
            if name and not path.name.startswith("."):
                self._note(path)
