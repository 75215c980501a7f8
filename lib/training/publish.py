"""Weights with what is known of them."""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.files import atomic_write
from lib.inference.model import made_for
from lib.networks.checkpoint import save_weights
from lib.settings import Settings


def describe(settings: Settings, version: str, **facts: Any) -> dict[str, Any]:
    """What is remembered with weights: version, labels, channels, network, software and `facts` of their making."""
    return {
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **made_for(settings),
        "network": settings.network.model_dump(),
        "software": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "monai": version_of("monai"),
            "numpy": version_of("numpy"),
        },
        **facts,
    }


def publish(path: Path, network: nn.Module, manifest: dict[str, Any]) -> None:
    """Write weights with their manifest to `path` and the manifest as JSON beside it.

    The weights file appears by one rename, so that a server reading it sees the old model or the new one, whole.
    """
    save_weights(path, network, manifest)
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2))
