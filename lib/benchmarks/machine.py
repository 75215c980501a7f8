"""What a measurement ran on, and the memory it took."""

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch

_PROCESSES = Path("/proc")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """CPU, cores, threads in use, load (processes that want a core, over a minute), device, system and torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "device": str(device),
        "device_name": name,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def reset_peak_memory(process: int | None = None) -> bool:
    """Let `peak_memory_mb` start anew; False where the system can't, so that it counts from the process's start.

    Args:
        process: its number; None: this one, with its memory on the GPU.
    """
    if process is None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        (_PROCESSES / _name(process) / "clear_refs").write_text("5")  # Linux: resets the "high water mark" VmHWM
    except OSError:
        return False
    return True


def peak_memory_mb(process: int | None = None) -> float:
    """Largest resident memory of a process since `reset_peak_memory`, in MB; 0 for another where it is not told.

    Args:
        process: its number; None: this one.
    """
    return _status_mb("VmHWM", process)


def memory_mb(process: int | None = None) -> float:
    """Resident memory of a process now, in MB; its peak, or 0 for another one, where the system does not tell.

    Args:
        process: its number; None: this one.
    """
    return _status_mb("VmRSS", process)


def drop_from_page_cache(path: Path) -> bool:
    """Let the next reader of a file, or of those in a folder, get them from the disk; False where that can't be."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())  # what is not on the disk yet can't be dropped
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _name(process: int | None) -> str:
    return "self" if process is None else str(process)


def _status_mb(key: str, process: int | None) -> float:
    try:
        status = (_PROCESSES / _name(process) / "status").read_text(encoding="utf-8")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e6
    if process is not None:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def peak_gpu_memory_mb() -> float:
    """Largest memory that tensors took on the GPU since `reset_peak_memory`, in MB; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
