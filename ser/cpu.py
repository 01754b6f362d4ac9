"""What makes torch faster on this machine's processor, without a change of the results beyond rounding."""

import ctypes
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_turn = threading.Lock()
_found: list[str] = []  # the setting before each use that has not ended, of all threads: the first is the user's own
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE = 1_000_000  # parameters of a network
_SMALL = 1_000_000  # multiplications of one product; oneDNN takes 10 to 15 microseconds before it begins


@contextmanager
def float32_products(multiplications: float = math.inf, on_cpu: bool = True) -> Iterator[None]:
    """Multiply float32 matrices by the faster of torch's two libraries while this lasts, also as a decorator.

    torch asks Intel's MKL, which on AMD processors with AVX-512 reaches less than half the speed of oneDNN. The public
    setting that makes torch ask oneDNN also allows it to round to bfloat16; it does so only on processors with AMX,
    where this changes nothing, as on all others. ``multiplications`` of one product: for small ones MKL stays faster.
    Where the products are not ``on_cpu`` nothing is set: torch.get_float32_matmul_precision(), which Lightning asks of
    each GPU, raises an error while this lasts. The setting is the process's: a thread that leaves may take the speed
    from another that is inside, and the last one leaves what was there before them all.
    Batches of products with one weight for all (three dimensions, not contiguous, without gradient) are left out of
    it by their callers: oneDNN copies the weight for each.
    """
    if not on_cpu or torch.compiler.is_compiling() or torch.jit.is_tracing():  # a graph holds no settings
        yield
        return
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch replaces the module by an object
    chosen = "bf16" if multiplications > _SMALL and _is_slow_by_mkl() else "ieee"
    with _turn:
        before = matmul.fp32_precision
        _found.append(before)
        matmul.fp32_precision = chosen
    try:
        yield
    finally:
        with _turn:
            first = _found[0]
            _found.pop()
            matmul.fp32_precision = before if _found else first


@contextmanager
def network_products(network: nn.Module, on_cpu: bool = True) -> Iterator[None]:
    """``float32_products`` for a large network, in its training and where answers must have the same digits.

    Batches differ in length, and oneDNN prepares for each new size: a run of a small network (``small_gru``) gets
    slower by it, one of ``enhanced_gru`` faster.
    """
    large = sum(parameter.numel() for parameter in network.parameters()) >= _LARGE
    with float32_products(on_cpu=on_cpu and large):
        yield


def _is_slow_by_mkl() -> bool:
    found = torch.cpu.get_capabilities()
    is_amd = str(found.get("cpu_name", "")).startswith("AMD")
    return is_amd and bool(found.get("avx512_f")) and not found.get("amx_bf16", True)


def has_bf16_instructions() -> bool:
    """Whether this CPU multiplies bfloat16 itself; where it does not, bfloat16 is slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def reuse_freed_memory() -> None:
    """Let glibc keep the memory that a step frees for the next step, in place of asking the system for fresh pages.

    By its own rule it returns blocks of some megabytes, as batches and activations are: 600,000 page faults in a run
    of ``recommended``, 6% of its processor time. Other systems allocate as they did.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that every glibc takes
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 20)
