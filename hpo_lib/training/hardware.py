"""Device, precision and seeds of a training, and settings that make a CPU faster."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpo_lib.training.config import TrainingConfig

# parameters of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 2**28

_BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_tile"}


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device; "auto": CUDA, else MPS, else CPU.

    Raises:
        ValueError: this machine or torch does not have it.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next((kind for kind in available if available[kind]), "cpu")
    if not available.get(name, True):
        message = f"device {name!r} is not available here"
        raise ValueError(message)
    return torch.device(name)


def autocast(
    config: TrainingConfig, device: torch.device
) -> Callable[[], AbstractContextManager[Any]]:
    """Return a factory of contexts in which the network computes in the configured precision.

    Args:
        config: its `precision` is "float32", "bfloat16" or "auto" (bfloat16 if in hardware).
        device: where the network is.
    """
    use_bfloat16 = config.precision == "bfloat16"
    if config.precision == "auto":
        use_bfloat16 = has_bfloat16(device.type)
    return partial(torch.autocast, device.type, torch.bfloat16) if use_bfloat16 else nullcontext


@lru_cache
def has_bfloat16(device_type: str) -> bool:
    """Return whether a kind of device multiplies bfloat16 matrices in hardware."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and not _BFLOAT16_INSTRUCTIONS.isdisjoint(cpu_instructions())


def cpu_instructions() -> set[str]:
    """Return the names of the instruction sets that this CPU has, as far as can be told."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        # sizes of caches are among them
        flags: dict[str, Any] = capabilities()
        return {name for name, value in flags.items() if value is True}

    # torch before 2.11 says nothing in public; Linux does
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


@contextmanager
def reproducible(device: torch.device, *entropy: int) -> Generator[None]:
    """Seed torch's generators and choose deterministic kernels; restore both afterwards.

    Args:
        device: where the training runs.
        *entropy: integers that fix the seed.
    """
    with ExitStack() as stack:
        cuda_devices: list[int] = []
        if device.type == "cuda":
            cuda_devices.append(torch.cuda.current_device())
            flags = torch.backends.cudnn.flags(
                enabled=True,
                benchmark=False,  # would choose kernels by their speed
                deterministic=True,
            )
            stack.enter_context(flags)
        stack.enter_context(torch.random.fork_rng(cuda_devices))
        torch.manual_seed(derive_seed(*entropy))
        yield


def derive_seed(*entropy: int) -> int:
    """Return a seed of 63 bits, independent of those of other entropy."""
    sequence = np.random.SeedSequence(entropy)
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def seeded_generator(*entropy: int) -> torch.Generator:
    """Return a generator of the CPU whose seed the integers fix."""
    generator = torch.Generator()
    return generator.manual_seed(derive_seed(*entropy))


@lru_cache
def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of megabytes: every step asks for the same ones again.

    It would give them back to the system, which clears each page anew: 10 to 15 % of the time.
    """
    if platform.libc_ver()[0] == "glibc":
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, _KEPT_BYTES)


def clear_vector_registers() -> None:
    """Leave this thread's vector registers as torch's exponentials need them.

    torch 2.14's kernel of expm1, which ELU and SELU rest on, takes seven times as long in a new
    thread (seen on Zen 4 with AVX-512) until a kernel that clears the registers ran once.
    """
    torch.tanh(torch.zeros(64, dtype=torch.bfloat16))
