"""Training operators with faster gradients on CPU, compiled when a C compiler is at hand.

Torch's gradient of 5x5 and 7x7 depthwise weights takes longer than all else in a training step,
and normalization and activation read the maps more often than they must. ``native.c`` computes
the same (same sums, another order); without a compiler, on other devices, or for maps that are
not channels last, torch does.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Sums may be reordered. -ffast-math itself would link start-up code that flushes denormals to zero
# in the whole process.
_FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros",
    "-fassociative-math", "-shared", "-fPIC", "-w",
)  # fmt: skip
_ACTIVATIONS = {"": 0, "relu": 1, "hardswish": 2}


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled functions of ``native.c``, or None without a working compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source = resources.files("edgeopt.ofa") / "native.c"
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        built, copy = Path(folder) / "native.so", Path(folder) / "native.c"
        copy.write_bytes(source.read_bytes())
        command = [compiler, *_FLAGS, str(copy), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            return None
        try:
            loaded = ctypes.CDLL(str(built))
        except OSError:
            return None
    pointer, long, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    loaded.depthwise_grad.argtypes = [pointer] * 3 + [long] * 8
    arguments: list[Any] = [pointer] * 3
    arguments += [ctypes.c_float, integer, long, long] + [pointer] * 5
    loaded.norm_forward.argtypes = arguments
    loaded.norm_backward.argtypes = [pointer] * 6 + [integer, long, long] + [pointer] * 3
    return loaded


def _suited(x: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and x.shape[1] % 8 == 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and library() is not None
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        stride, kernel, channels = ctx.stride, weight.shape[-1], x.shape[1]
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        edge = [kernel // 2] * 2
        grad_x = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [stride] * 2, edge, [1, 1], False, [0, 0], channels,
            [True, False, False],
        )[0]  # fmt: skip
        native = library()
        assert native is not None
        out = torch.empty(kernel, kernel, channels)
        n, _, h, w = x.shape
        failed = native.depthwise_grad(
            x.data_ptr(), grad.data_ptr(), out.data_ptr(), n, h, w, grad.shape[2], grad.shape[3],
            channels, stride, kernel,
        )  # fmt: skip
        assert not failed
        return grad_x, out.permute(2, 0, 1).unsqueeze(1), None


def depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve [N,C,H,W] with weights [C,1,K,K], padded to keep the size at stride 1."""
    kernel = weight.shape[-1]
    if kernel in (5, 7) and _suited(x):
        y: Tensor = _Depthwise.apply(x, weight, stride)  # type: ignore[no-untyped-call]
        return y
    return F.conv2d(x, weight, None, stride, kernel // 2, 1, x.shape[1])


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, act: int) -> Tensor:
        native = library()
        assert native is not None
        n, c, h, w = x.shape
        y = torch.empty_like(x)
        a, b, mean, rstd = (torch.empty(c) for _ in range(4))
        gamma, beta = gamma.contiguous(), beta.contiguous()
        failed = native.norm_forward(
            x.data_ptr(), gamma.data_ptr(), beta.data_ptr(), eps, act, n * h * w, c,
            y.data_ptr(), a.data_ptr(), b.data_ptr(), mean.data_ptr(),
            rstd.data_ptr(),
        )  # fmt: skip
        assert not failed
        ctx.save_for_backward(x, a, b, mean, rstd)
        ctx.act = act
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        native = library()
        assert native is not None
        x, a, b, mean, rstd = ctx.saved_tensors
        n, c, h, w = x.shape
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x)
        dgamma, dbeta = torch.empty(c), torch.empty(c)
        failed = native.norm_backward(
            x.data_ptr(), grad.data_ptr(), a.data_ptr(), b.data_ptr(), mean.data_ptr(),
            rstd.data_ptr(), ctx.act, n * h * w, c, dx.data_ptr(), dgamma.data_ptr(),
            dbeta.data_ptr(),
        )  # fmt: skip
        assert not failed
        return dx, dgamma, dbeta, None, None


def norm_act(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, activation: str) -> Tensor:
    """Normalize [N,C,H,W] with the batch's statistics, then apply ``relu``, ``hardswish`` or ""."""
    if _suited(x):
        y: Tensor = _NormAct.apply(x, gamma, beta, eps, _ACTIVATIONS[activation])  # type: ignore[no-untyped-call]
        return y
    return activate(F.batch_norm(x, None, None, gamma, beta, True, 0.0, eps), activation)


def activate(x: Tensor, name: str) -> Tensor:
    """Apply ``relu``, ``hardswish`` or nothing (""), in place."""
    if name == "relu":
        return F.relu(x, inplace=True)
    return F.hardswish(x, inplace=True) if name else x
