"""A quicker and quieter start: no looking for garbage while modules are imported, no warnings about others' code.

PyTorch, MONAI and MONAI Label are 6,000 modules of 700,000 objects, all of which stay. Python's collector goes through
them again and again while they come, once more at the end of the process, and for 0.4 s whenever it looks at everything
while a server runs.
"""

import gc
import sys
import warnings
from multiprocessing import current_process


def begin_imports() -> None:
    """Switch the collector off, if what takes long to import is still to come; `end_imports` must follow.

    A process of a script's pool imports the script without running it, so that nothing would switch it on again.
    """
    # Torch says so about MONAI's code whenever MONAI is imported; no user can do anything about it.
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
    if "torch" not in sys.modules and current_process().name == "MainProcess":
        gc.disable()


def end_imports() -> None:
    """Let the collector look at what is made from now on, and never at what is there. Nothing where none began."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
