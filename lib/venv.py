"""Scripts run with the Python of `.venv`, whichever Python they were started with. Standard library only."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[1]


def enter_environment(environment: Path = _REPOSITORY / ".venv") -> None:
    """Start this script again with the Python of `environment` where there is one.

    Without it the running Python must have what scripts need; if it hasn't, exits with code 2 and one line.
    """
    if Path(sys.prefix) == environment:
        return
    python = environment / "bin" / "python"
    if python.exists():
        os.execv(python, [str(python), *sys.argv])
    if find_spec("torch") is None:
        sys.stderr.write(f"error: {environment} is missing; run scripts/setup, which makes it\n")
        sys.exit(2)
