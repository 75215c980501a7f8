"""The synthetic CTs that are committed in `sample-data/`: how each was made."""

from typing import Any

# Small enough to commit, different in all that matters to a tool: phase, tumors, orientation, tilt, spacing.
_EACH: dict[str, dict[str, Any]] = {
    "phantom_0001": {"seed": 1001, "phase": "portal", "tumors": 3, "orientation": "LPS"},
    "phantom_0002": {"seed": 1002, "phase": "portal", "tumors": 0, "orientation": "RAS"},
    "phantom_0003": {"seed": 1003, "phase": "native", "tumors": 2, "orientation": "LAS"},
    "phantom_0004": {"seed": 1004, "phase": "portal", "tumors": 7, "orientation": "RAS", "tilt": 8.0},
    "phantom_0005": {"seed": 1005, "phase": "portal", "tumors": 1, "orientation": "PSL"},
    "phantom_0006": {"seed": 1006, "phase": "native", "tumors": 0, "orientation": "LPS"},
}
_ALL: dict[str, Any] = {"shape": (112, 112, 44), "spacing": (3.3, 3.3, 5.5), "tilt": 0.0}

# Options of `lib.phantom.draw_spec` by the name of the file.
SAMPLE_PHANTOMS: dict[str, dict[str, Any]] = {name: {**_ALL, **options} for name, options in _EACH.items()}
