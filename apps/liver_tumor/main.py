"""The MONAI Label app: wires `lib` together, nothing else."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # MONAI Label loads this file by its path

from lib.web.app import LiverLoopApp


class LiverTumorApp(LiverLoopApp):
    """Liver and liver tumor in CT, as `app.yaml` beside this file describes it."""
