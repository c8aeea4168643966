"""Running a network: precision, memory layout, compilation, and tensors onto its device."""

import contextlib
import functools
import os
import shutil
import sys
from typing import Any

import torch as th

from ..errors import ArgumentError

# Input shapes, of both networks together, that torch compiles for before it gives up.
_SHAPES = 64
_COMPILERS = {"darwin": "clang++", "win32": "cl"}  # where torch looks for another than g++


@functools.cache
def settle_precision(precision: str, device: th.device) -> str:
    """Return "fp32" or "bf16" for a precision; for `auto`, the hardware decides.

    Raises:
        ArgumentError: for bf16 on an Apple GPU.
    """
    if device.type == "mps":
        if precision == "bf16":
            raise ArgumentError("precision", "expected fp32 or auto with mps, got 'bf16'")
        return "fp32"
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if th.cuda.is_bf16_supported() else "fp32"
    # CPUs without these instructions compute in bfloat16, but slower than in float32.
    return "bf16" if bf16_instructions() else "fp32"


def bf16_instructions() -> list[str]:
    """Return the names of this CPU's instructions for products of matrices in bfloat16."""
    units = {"amx": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    return [name for name, unit in units.items() if getattr(th.cpu, unit, bool)()]


def training_layout(
    device_type: str, precision: str, use_fp16: bool
) -> tuple[th.memory_format, th.memory_format]:
    """Return the memory layouts in which a network and its images are trained.

    Half precision is faster in channels_last, on tensor cores and on CPUs; CPU kernels lay out
    weights by themselves. In float32 neither gains.
    """
    cuda, half = device_type == "cuda", precision == "bf16"
    network = cuda and (half or use_fp16)
    images = network or (device_type == "cpu" and half)
    return tuple(th.channels_last if last else th.preserve_format for last in (network, images))


def to_train(
    network: th.nn.Module, device: th.device, precision: str, use_fp16: bool
) -> th.nn.Module:
    """Move a network to a device, in the memory layout in which it is trained there."""
    layout, _ = training_layout(device.type, settle_precision(precision, device), use_fp16)
    return network.to(device, memory_format=layout)


def to_use(network: Any, device: th.device | str, use_fp16: bool) -> None:
    """Move a trained network to a device; with use_fp16 in half precision, except on a CPU."""
    network.to(device, memory_format=th.channels_last).eval().requires_grad_(False)
    if use_fp16 and th.device(device).type == "cpu":  # where half precision is slower
        network.dtype = th.float32
    elif use_fp16:
        network.convert_to_fp16()


def autocast(device: th.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which a network runs in a precision, which may be `auto`."""
    half = settle_precision(precision, device) == "bf16"
    if device.type == "mps":  # which not every torch has it for
        return contextlib.nullcontext()
    return th.autocast(device.type, dtype=th.bfloat16, enabled=half)


def exact(device: th.device) -> th.device:
    """Return the device for float64 numbers: the host for an Apple GPU, which has none."""
    return th.device("cpu") if device.type == "mps" else device


def upload(tensor: th.Tensor, device: th.device) -> th.Tensor:
    """Return a tensor on a device; from the host to a GPU without waiting for the GPU's work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def compiled(module: th.nn.Module, asked: bool, *, static: bool = False) -> th.nn.Module:
    """Let a module run through torch.compile from now on, if that is asked for, and return it.

    It is the same object: its class and the keys of its state stay as they are.

    Args:
        module: module on its device.
        asked: whether to compile.
        static: whether to compile anew for each shape of input, for inputs of few shapes. On a GPU
            each becomes a CUDA graph, and a call overwrites the result of the call before.

    Raises:
        UserError: if there is no C++ compiler.
    """
    if asked:
        compiler = (os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")).split()[0]
        if shutil.which(compiler) is None:
            advice = "install one, name it in CXX, or go without --compile"
            problem = f"expected a C++ compiler, found no {compiler}; {advice}"
            raise ArgumentError("compile", problem)
        if static:
            th._dynamo.config.cache_size_limit = _SHAPES  # the name that torch 2.4 knows as well
        graphs = static and next(module.parameters()).is_cuda
        mode = "reduce-overhead" if graphs else None
        module.compile(dynamic=False if static else None, mode=mode)
    return module
