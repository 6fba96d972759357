"""What a workload sets of torch while it runs: a user's code can read it, every way out puts it back."""

import os
from contextlib import nullcontext

import pytest
import torch

from clrtool.engine.runtime.device import CUBLAS, arithmetic
from clrtool.engine.runtime.distributed import ProcessGroup
from clrtool.engine.runtime.ranks import Ranks
from clrtool.errors import ConfigError, MachineError, OutOfMemoryError
from tests.engine.workloads import digits

CUDNN, MATMUL, MKLDNN = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul

# What torch raises where cuBLAS was used before it was told.
UNTOLD = (
    "Deterministic behavior was enabled, but this operation is not deterministic because it uses CuBLAS and you have CUDA "
    ">= 10.2. To enable deterministic behavior in this case, you must set an environment variable before running your "
    "PyTorch application: CUBLAS_WORKSPACE_CONFIG=:4096:8 or CUBLAS_WORKSPACE_CONFIG=:16:8."
)


def settings():
    """All that arithmetic touches, in torch's older names and its newer ones."""
    memory = torch.utils.deterministic
    older = CUDNN.allow_tf32, MATMUL.allow_tf32, torch.get_float32_matmul_precision(), CUDNN.benchmark
    newer = MATMUL.fp32_precision, MKLDNN.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision
    return older, newer, torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_code_inside_may_read_and_set_the_older_flags_of_precision(precision):
    before = settings()
    with digits(precision=precision).on_device():
        assert CUDNN.allow_tf32 is MATMUL.allow_tf32 is (precision == "tf32")
        with CUDNN.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            assert CUDNN.allow_tf32
        assert CUDNN.allow_tf32 is (precision == "tf32")
    assert settings() == before


@pytest.mark.parametrize("older", ["highest", "high", "medium"])
@pytest.mark.parametrize("inner", ["fp32", "tf32"])
@pytest.mark.parametrize("outer", ["fp32", "tf32"])
def test_the_older_name_can_be_read_inside_and_is_put_back_however_often_and_deep(older, outer, inner):
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(older)
    try:
        before = settings()
        with arithmetic(outer, deterministic=False):
            between = settings()
            for _ in range(2):
                with arithmetic(inner, deterministic=False):
                    assert torch.get_float32_matmul_precision() == {"fp32": "highest", "tf32": "high"}[inner]
                assert settings() == between
        assert settings() == before
    finally:
        torch.set_float32_matmul_precision(was)
        MATMUL.fp32_precision = MKLDNN.fp32_precision = "none"


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_settings_are_put_back_after_an_error_too(precision):
    before = settings()
    with pytest.raises(KeyError), arithmetic(precision, deterministic=True):
        raise KeyError
    assert settings() == before


def test_the_same_bytes_are_asked_of_cublas_too_and_memory_is_not_filled_for_them(monkeypatch):
    monkeypatch.delenv(CUBLAS[0], raising=False)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    with digits(deterministic=True).on_device():
        assert os.environ[CUBLAS[0]] == CUBLAS[1]
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_value_that_cublas_was_told_before_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv(CUBLAS[0], ":16:8")
    with arithmetic(None, deterministic=True):
        assert os.environ[CUBLAS[0]] == ":16:8"


@pytest.mark.parametrize(
    "error", [UNTOLD, "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation"]
)
def test_what_cannot_be_computed_in_one_order_is_told_with_the_way_out(error):
    workload = digits(deterministic=True)
    with (
        pytest.raises(ConfigError, match="Run it without --deterministic"),
        workload.on_device(),
        workload.blamed_on("x"),
    ):
        raise RuntimeError(error)


# What CUDA adds to each of its errors.
ADDED = """
Search for it in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
"""


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (torch.AcceleratorError(f"CUDA error: device-side assert triggered{ADDED}"), ConfigError, "itself: --device cpu$"),
        (torch.AcceleratorError(f"CUDA error: no kernel image is available{ADDED}"), MachineError, "for other GPUs"),
        (torch.AcceleratorError(f"CUDA error: unspecified launch failure{ADDED}"), MachineError, "CUDA_LAUNCH_BLOCKING"),
        (torch.AcceleratorError(f"CUDA error: out of memory{ADDED}"), OutOfMemoryError, "training.micro_batches=2"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemoryError,
         "training.micro_batches=2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["model", None])
def test_what_a_gpu_says_late_is_told_with_the_way_out_and_blamed_on_no_field(error, expected, said, field):
    workload = digits()
    with (
        pytest.raises(expected, match=f"^(CUDA error|out of memory).*{said}") as found,
        workload.on_device(),
        nullcontext() if field is None else workload.blamed_on(field),
    ):
        raise error
    assert "docs.nvidia.com" not in str(found.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), torch.OutOfMemoryError),
        (RuntimeError("Connection closed by peer"), MachineError),
    ],
)
@pytest.mark.parametrize("call", ["sum", "broadcast_buffers"])
def test_a_rank_that_has_no_memory_left_is_not_told_to_have_lost_another(monkeypatch, error, expected, call):
    def fails(*args, **options):
        raise error

    for name in ("all_reduce", "broadcast"):
        monkeypatch.setattr(torch.distributed, name, fails)
    ranks = ProcessGroup.__new__(ProcessGroup)  # of which these calls need nothing
    assert isinstance(ranks, Ranks)
    with pytest.raises(expected):
        getattr(ranks, call)(torch.nn.BatchNorm1d(2) if call == "broadcast_buffers" else torch.zeros(1))
