"""How tests are given to several workers of pytest-xdist: file by file, some of them at the end, on one worker.

pytest-xdist can keep tests together on one worker, but would let the other workers go on beside it.
"""

from collections.abc import Collection
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# Beside other work, these would measure that work, or wait for it.
ALONE = (
    "tests/loop/test_loop_retraining.py",  # a training gives way to whatever else runs
    "tests/loop/test_loop_waiting.py",  # compares how long answers take
)
# These take minutes: begun last, one worker would be at them while the others have nothing left to do.
LONG = (
    "tests/loop/test_loop_crash.py",
    "tests/loop/test_loop_training.py",
    "tests/loop/test_loop_many_clients.py",
)
_LAST = "tests/loop/"  # the folder that scripts/test names last


def file_of(nodeid: str) -> str:
    """The file of a test, relative to the repository."""
    return nodeid.partition("::")[0]


def put_last(items: list[pytest.Item], alone: Collection[str] = ALONE) -> None:
    """Move the tests of some files to the end, and the long ones to the beginning of their folder."""

    def place(item: pytest.Item) -> int:
        file = file_of(item.nodeid)
        return 3 if file in alone else 1 if file in LONG else 2 if file.startswith(_LAST) else 0

    items.sort(key=place)


class AloneLast(LoadFileScheduling):
    """One file after the other in the order of the collection; some only when a single worker is left.

    Args:
        config: of the run.
        log: where pytest-xdist notes what it does.
        alone: the files that wait for that; they must be the last of the collection.
    """

    def __init__(self, config: pytest.Config, log: Any = None, alone: Collection[str] = ALONE) -> None:
        super().__init__(config, log)
        self._alone = alone

    def remove_node(self, node: WorkerController) -> str | None:
        """A worker has ended; the last one may have waited for that."""
        crashed = super().remove_node(node)
        for other in self.nodes * 2:  # a worker begins a test when it knows the next
            self._reschedule(other)
        return crashed

    def _assign_work_unit(self, node: WorkerController) -> None:
        if not self._has_company(node):
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if node.shutting_down or not self._has_company(node):
            super()._reschedule(node)

    def _has_company(self, node: WorkerController) -> bool:
        """Whether a worker must not get what comes next, since there are others; all but the last are told to end."""
        others = [other for other in self.nodes if other is not node]
        if next(iter(self.workqueue), None) not in self._alone or not others:
            return False
        if not all(other.shutting_down for other in others):
            node.shutdown()  # after what it was given
        return True
