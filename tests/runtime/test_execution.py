"""Execution: precision, compilation and uploads."""

import functools
import sys

import pytest
import torch

from guided_diffusion.errors import ArgumentError, UserError
from guided_diffusion.runtime import execution


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_autocast_follows_the_precision(precision, dtype):
    with execution.autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
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


@pytest.mark.parametrize("layout", [AS_IT_IS, LAST])
def test_a_network_is_trained_in_its_layout_with_the_same_weights(monkeypatch, layout):
    monkeypatch.setattr(execution, "training_layout", lambda *_: (layout, AS_IT_IS))
    network = torch.nn.Conv2d(4, 2, 3)
    expected = network.weight.detach().clone(memory_format=layout)
    assert execution.to_train(network, CPU, "fp32", False) is network
    assert network.weight.stride() == expected.stride() and torch.equal(network.weight, expected)


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


def test_what_is_on_its_device_already_is_not_copied():
    tensor = torch.arange(3)
    assert execution.upload(tensor, CPU) is tensor


@needs_gpu
def test_an_upload_to_a_gpu_does_not_wait_for_it():
    tensor, gpu = torch.arange(3), torch.device("cuda", 0)
    torch.cuda.set_sync_debug_mode("error")  # whoever waits for the GPU fails
    try:
        found = execution.upload(tensor, gpu)
        assert execution.upload(found, gpu) is found
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.device == gpu and torch.equal(execution.upload(found, CPU), tensor)


@needs_gpu
@pytest.mark.parametrize("use_fp16", [False, True])
def test_half_precision_trains_on_a_gpu_in_channels_last(use_fp16):
    network = execution.to_train(torch.nn.Conv2d(4, 2, 3), torch.device("cuda"), "fp32", use_fp16)
    assert network.weight.is_cuda
    assert network.weight.is_contiguous(memory_format=LAST) == use_fp16


def test_a_compiled_module_is_the_same_object_with_the_same_keys_and_results():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.SiLU())
    x, keys = torch.ones(4, 3), list(module.state_dict())
    expected = module(x)
    assert execution.compiled(module, False) is module and module._compiled_call_impl is None
    assert execution.compiled(module, True) is module and module._compiled_call_impl is not None
    assert list(module.state_dict()) == keys and type(module) is torch.nn.Sequential
    torch.testing.assert_close(module(x), expected)


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.factor * x


def test_a_static_module_is_compiled_for_each_shape_until_there_are_too_many(monkeypatch):
    sizes = []

    def backend(graph, inputs):  # needs no C++ compiler: the graph runs as it is
        sizes.extend(x.shape[0] for x in inputs if x.ndim == 2)
        return graph.forward

    with_backend = functools.partialmethod(torch.nn.Module.compile, backend=backend)
    monkeypatch.setattr(torch.nn.Module, "compile", with_backend)
    monkeypatch.setenv("CXX", sys.executable)  # is looked for, and not called
    monkeypatch.setattr(execution, "_SHAPES", 3)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(cache_size_limit=8):
        module = execution.compiled(Scaled(), True, static=True)
        for count in (4, 2, 4, 1, 2, 7, 7, 4):
            x = torch.rand(count, 3)
            assert torch.equal(module(x), 2 * x)
    assert sizes == [4, 2, 1]  # the fourth size, 7, runs uncompiled
    torch._dynamo.reset()


@pytest.mark.parametrize("variable", ["", "no-such-compiler -O3"])
def test_without_a_compiler_compile_is_refused(monkeypatch, variable):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", variable)
    module = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"compile: expected a C\+\+ compiler, found no "):
        execution.compiled(module, True)
    assert module._compiled_call_impl is None
    assert execution.compiled(module, False) is module


MPS = torch.device("mps")


def test_an_apple_gpu_computes_in_float32_and_leaves_float64_to_the_host():
    assert execution.settle_precision("auto", MPS) == "fp32"
    assert execution.settle_precision("fp32", MPS) == "fp32"
    with pytest.raises(ArgumentError, match="precision: expected fp32 or auto with mps"):
        execution.settle_precision("bf16", MPS)
    with execution.autocast(MPS, "auto"):
        pass
    assert execution.exact(MPS) == torch.device("cpu")
    for name in ("cpu", "cuda:1"):
        assert execution.exact(torch.device(name)) == torch.device(name)
