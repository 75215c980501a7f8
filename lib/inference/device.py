"""Which device and which number format a network runs in."""

import contextlib
from contextlib import AbstractContextManager
from typing import Literal

import torch

from lib.cores import available_cores

Precision = Literal["auto", "float32", "bfloat16"]


def choose_device(name: str | None = None) -> torch.device:
    """The named device where it exists, else CUDA where it is, else the CPU."""
    kind, _, number = (name or "cuda").partition(":")
    if kind == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    exists = kind == "cuda" and number.isdecimal() and int(number) < torch.cuda.device_count()
    return torch.device(f"cuda:{number}" if exists else "cuda")


def set_threads(count: int, processes: int = 1) -> int:
    """Use `count` CPU threads from here on; 0: all cores but one, at least one, so that the machine still answers.

    Args:
        count: threads.
        processes: that share the cores.

    Returns:
        How many that are.
    """
    threads = count or max(1, (available_cores() - 1) // processes)
    torch.set_num_threads(threads)
    return threads


def autocast(device: torch.device, precision: Precision = "auto") -> AbstractContextManager:
    """Mixed precision where the hardware gains by it.

    bfloat16 on CUDA and on CPUs with bfloat16 instructions (AVX512-BF16 or AMX: measured 2.3 times faster here);
    elsewhere emulated bfloat16 would be slower than float32.
    """
    if resolve_precision(device, precision) == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def resolve_precision(device: torch.device, precision: Precision) -> Literal["float32", "bfloat16"]:
    """What "auto" means on this device and machine."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" or has_fast_bfloat16() else "float32"


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool((supported and supported()) or (amx and amx()))


def has_fast_int8() -> bool:
    """Whether this CPU multiplies bytes natively, without the overflow that older instructions have."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool((supported and supported()) or (amx and amx()))
