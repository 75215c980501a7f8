"""How many CPU cores there are to use."""

import math
import os
from pathlib import Path

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota_file: Path = _CGROUP_QUOTA) -> int:
    """CPU cores that this process may use: its affinity, and in a container the quota, rounded up.

    `os.cpu_count` tells those of the machine: with that many threads, a container that may use four of 64 cores would
    stand still for most of the time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no control groups, or "max": no limit
        return cores
