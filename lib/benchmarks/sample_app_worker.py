"""MONAI Label's radiology sample app, its own code unchanged, in a process of its own.

    python -P sample_app_worker.py APP MODEL DEVICE THREADS FOLDER

Both its package and ours are named `lib`; this file therefore imports nothing of ours. The first line it answers says
what it runs. Then each line it reads is the path of an image, and each answer the seconds that took, as JSON.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

_STAGES = {"pre": "pre", "infer": "inferer", "invert": "invert", "post": "post", "write": "write"}
# What 3D Slicer asks for.
_REQUEST = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "logging": "WARNING"}


def main() -> None:
    """Answer until nobody asks any more."""
    app, model, device, threads, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the sample app prints is no answer
    torch.set_num_threads(int(threads))
    sys.path.insert(0, app)
    task = _task(model, folder)
    print(json.dumps(_describe(task)), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_segment(task, line.strip(), device)), file=answers, flush=True)


def _task(model: str, folder: str) -> Any:
    """The task as the sample app configures it, with the weights that its network starts with."""
    config = getattr(
        importlib.import_module(f"lib.configs.{model}"), "".join(word.capitalize() for word in model.split("_"))
    )()
    config.init(model, folder, {"use_pretrained_model": "false"}, None)
    return config.infer()


def _describe(task: Any) -> dict[str, Any]:
    image = torch.zeros(1, *task.roi_size)
    inferer = task.inferer({"image": image, "device": "cpu"})
    return {
        "network": type(task.network).__name__,
        "classes": len(task.labels) + 1,
        "spacing_mm": list(task.target_spacing),
        "roi": list(task.roi_size),
        "windows_at_once": inferer.sw_batch_size,
        "overlap": inferer.overlap,
    }


def _segment(task: Any, image: str, device: str) -> dict[str, Any]:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    written, result = task({"image": image, "device": device, **_REQUEST})
    total = time.perf_counter() - begin
    Path(written).unlink()
    return {
        "seconds": {ours: result["latencies"][theirs] for theirs, ours in _STAGES.items()},
        "total": total,
        "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0,
    }


if __name__ == "__main__":
    main()
