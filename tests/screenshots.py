"""Where tests keep what was on the screen."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "runs" / "screenshots"  # ignored by git
