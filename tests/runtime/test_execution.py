"""Execution: precision, compilation and uploads."""

from unittest.mock import Mock

import pytest
import torch

from guided_diffusion.errors import UserError
from guided_diffusion.runtime import execution


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_autocast_follows_the_precision(precision, dtype):
    with execution.autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


AS_IT_IS, LAST = torch.preserve_format, torch.channels_last


@pytest.mark.parametrize(
    ("device", "precision", "use_fp16", "network", "images"),
    [
        ("cuda", "bf16", False, LAST, LAST),
        ("cuda", "fp32", True, LAST, LAST),
        ("cuda", "fp32", False, AS_IT_IS, AS_IT_IS),
        ("cpu", "bf16", False, AS_IT_IS, LAST),
        ("cpu", "fp32", True, AS_IT_IS, AS_IT_IS),
        ("cpu", "fp32", False, AS_IT_IS, AS_IT_IS),
        ("mps", "bf16", False, AS_IT_IS, AS_IT_IS),
    ],
)
def test_half_precision_trains_in_the_memory_layout_of_the_device(
    device, precision, use_fp16, network, images
):
    assert execution.training_layout(device, precision, use_fp16) == (network, images)
    module, place = Mock(), torch.device(device)
    execution.to_train(module, place, precision, use_fp16)
    module.to.assert_called_once_with(place, memory_format=network)


@pytest.mark.parametrize(
    ("amx", "avx", "expected"), [(0, 0, "fp32"), (0, 1, "bf16"), (1, 0, "bf16")]
)
def test_auto_precision_is_bf16_where_the_processor_has_it(monkeypatch, amx, avx, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx), raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx), raising=False)
    uncached = execution.settle_precision.__wrapped__
    assert uncached("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_named_precision_stays(precision):
    assert execution.settle_precision(precision, torch.device("cpu")) == precision


def test_an_upload_to_a_gpu_does_not_wait_for_it():
    tensor, gpu = Mock(device=torch.device("cpu")), torch.device("cuda", 1)
    execution.upload(tensor, gpu)
    tensor.pin_memory.return_value.to.assert_called_once_with(gpu, non_blocking=True)


@pytest.mark.parametrize(("held", "wanted"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda", "cpu")])
def test_other_tensors_move_as_they_are(held, wanted):
    tensor = Mock(device=torch.device(held))
    execution.upload(tensor, torch.device(wanted))
    tensor.to.assert_called_once_with(torch.device(wanted))
    tensor.pin_memory.assert_not_called()


def test_a_compiled_module_is_the_same_object_with_the_same_keys_and_results():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.SiLU())
    x, keys = torch.ones(4, 3), list(module.state_dict())
    expected = module(x)
    assert execution.compiled(module, False) is module and module._compiled_call_impl is None
    assert execution.compiled(module, True) is module and module._compiled_call_impl is not None
    assert list(module.state_dict()) == keys and type(module) is torch.nn.Sequential
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("variable", ["", "no-such-compiler -O3"])
def test_without_a_compiler_compile_is_refused(monkeypatch, variable):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", variable)
    module = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"compile: expected a C\+\+ compiler, found no "):
        execution.compiled(module, True)
    assert module._compiled_call_impl is None
    assert execution.compiled(module, False) is module
