"""A process that works for another one ends with it, however that ends.

A training that goes on without its server would publish a model that nobody watches, beside the one that the restarted
server trains. On Linux the system kills the process in the moment in which its parent ends; elsewhere a thread looks.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time

from lib.errors import GoneError

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_LOOK_S = 0.5
_parent: int | None = None  # the process that this one works for


def end_with_parent(parent: int) -> None:
    """From now on this process, and what it forks, is killed when its parent ends.

    Call it in the main thread. The system means the thread that started this process, which must last as long.

    Args:
        parent: process id; if that is not the parent any more, it has ended before, and this process ends at once.
    """
    global _parent
    _parent = parent
    if not _ask_the_system():
        threading.Thread(target=_look, args=(parent,), name="end with parent", daemon=True).start()
    os.register_at_fork(before=_note_thread, after_in_child=_end_with_forking_process)
    if os.getppid() != parent:
        logger.warning("the process %d, which this one works for, has ended; it ends as well", parent)
        os._exit(1)


def check_parent() -> None:
    """Refuse to go on if the process that this one works for has ended.

    Raises:
        GoneError: it has.
    """
    if _parent is not None and os.getppid() != _parent:
        msg = "the server that started this has ended, so that nothing is published; start it again, or resume it"
        raise GoneError(msg)


def _ask_the_system() -> bool:
    """Have this process killed with its parent; False where the system can't."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)


def _look(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


# The system's promise is not inherited by a fork. It is renewed there unless a thread forks that may end before.
_forking_process: int | None = None  # set while the main thread forks


def _note_thread() -> None:
    global _forking_process
    _forking_process = os.getpid() if threading.current_thread() is threading.main_thread() else None


def _end_with_forking_process() -> None:
    global _parent
    _parent = None
    if _forking_process is None:
        return
    # It may have been killed between the fork and the promise, which then says nothing any more.
    if _ask_the_system() and os.getppid() != _forking_process:
        os._exit(1)
