#!/usr/bin/env python3
"""Draw `pool_kinds.png`: three phantoms of each kind of patient in a simulated pool, with their true outlines.

.venv/bin/python docs/images/draw_pool_kinds.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lib.simulation.pool_picture import draw_kinds_picture

if __name__ == "__main__":
    draw_kinds_picture(Path(__file__).with_name("pool_kinds.png"))
