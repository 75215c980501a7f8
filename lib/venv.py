"""Scripts run with the Python of `.venv`, whichever Python they were started with. Standard library only."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from lib.imports import begin_imports

_REPOSITORY = Path(__file__).resolve().parents[1]


def enter_environment(environment: Path = _REPOSITORY / ".venv") -> None:
    """Start this script again with the Python of `environment` where there is one.

    Without it the running Python must have what scripts need. If the Python that is to run the script hasn't, exits
    with code 2 and one line. What follows must be the script's imports, and then `lib.console.run`.
    """
    # ONNX Runtime, which MONAI imports, would report its use to its maker; it looks at this when it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    python = environment / "bin" / "python"
    # The second, as a half-made environment can leave its Python with another prefix.
    entered = Path(sys.prefix) == environment or Path(sys.executable) == python
    if not entered and python.exists():
        os.execv(python, [str(python), *sys.argv])
    if find_spec("torch") is None:
        state = "incomplete" if entered else "missing"
        sys.stderr.write(f"error: {environment} is {state}; run scripts/setup, which makes it\n")
        sys.exit(2)
    begin_imports()
