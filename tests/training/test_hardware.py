from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpo_lib.training.hardware import choose_device, cpu_instructions, has_bfloat16


def test_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in ("cpu", "cuda", "mps")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'cuda' is not available here"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [({"avx512_f"}, False), ({"avx512_f", "avx512_bf16"}, True), ({"amx_tile"}, True)],
)
def test_bfloat16_is_chosen_where_the_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, instructions: set[str], expected: bool
) -> None:
    monkeypatch.setattr("hpo_lib.training.hardware.cpu_instructions", lambda: instructions)
    has_bfloat16.cache_clear()
    try:
        assert has_bfloat16("cpu") is expected
    finally:
        has_bfloat16.cache_clear()


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_instruction_sets_are_told_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"avx2", "avx512_bf16", "amx_tile"}
    expected = cpu_instructions() & names
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert cpu_instructions() & names == expected
