"""What ends a program with one line, and what is a bug and shows."""

import pytest
import torch

from tattoo_lora.errors import one_line_errors

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
MPS = RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)")
CPU = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize("error", [CUDA, MPS, CPU, CUBLAS, MemoryError()])
def test_too_little_memory_is_one_line_wherever_it_runs_out(error, capsys):
    with pytest.raises(SystemExit) as stopped, one_line_errors():
        raise error
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and said.count("\n") == 1
    assert said.startswith("error: out of memory; close other programs, set sampling.low_memory: true or lower")


def test_other_errors_of_torch_are_bugs_and_show():
    with pytest.raises(RuntimeError, match="shapes"), one_line_errors():
        raise RuntimeError("shapes do not fit")
