"""An emulated CUDA device: tensors that say ``cuda:0`` and hold their values on the CPU.

What CUDA would refuse raises: operations on tensors of two devices, and NumPy's look at a tensor of the device.
Autocast and autograd run under CUDA's own keys; convolutions and matrix products in float16 are computed in float32 and
rounded, as the GPU does it. Kernel launches, and what makes the host wait for the device, are counted with the line
that asked.

It cannot show speed, memory, cuDNN's choices or errors that come late. It needs torch's CUDA build and the library that
``driver.cpp`` compiles to, preloaded; see :mod:`benchmarks.rehearsal.environment`.
"""

from __future__ import annotations

import collections
import ctypes
import os
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

PROJECT = Path(__file__).resolve().parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
MEMORY = 2**36
"""Bytes that it says to have."""

MATRIX_PRODUCTS = {"convolution", "convolution_backward", "addmm", "mm", "bmm", "baddbmm", "_conv_depthwise2d"}
"""Computed in float32 and rounded, where CUDA multiplies float16."""

NO_LAUNCH = {
    *("view", "_unsafe_view", "expand", "permute", "transpose", "t", "slice", "select", "unsqueeze", "squeeze"),
    *("detach", "alias", "as_strided", "split", "unbind", "lift_fresh", "split_with_sizes", "_reshape_alias"),
    *("unsafe_split", "unfold", "diagonal", "empty", "empty_like", "empty_strided", "new_empty", "empty_permuted"),
}
"""Operations that only look at memory in another way, or take some."""

WAITS = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "equal"}
"""Operations whose result, or its shape, the host must know."""

INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class DeviceError(RuntimeError):
    """What CUDA would refuse."""


@dataclass
class Counts:
    """What has been asked of the device.

    Args:
        launches: operation -> kernels.
        waits: why the host waited for the device, and the project's line -> how often.
    """

    launches: collections.Counter = field(default_factory=collections.Counter)
    waits: collections.Counter = field(default_factory=collections.Counter)

    def wait(self, why: str) -> None:
        self.waits[f"{why} at {_caller()}"] += 1


counts = Counts()


class CudaTensor(Tensor):
    """A tensor of the emulated device; ``values`` are on the CPU."""

    values: Tensor  # ty: ignore[incompatible-attribute-override]  # Of sparse tensors only, in torch.

    @staticmethod
    def __new__(cls, values: Tensor) -> CudaTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=CUDA,
        )
        made.values = values
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"CudaTensor({self.values})"

    def __deepcopy__(self, memo: dict) -> Tensor:
        copied = CudaTensor(self.values.detach().clone())
        if isinstance(self, nn.Parameter):
            return nn.Parameter(copied, self.requires_grad)
        return copied.requires_grad_(self.requires_grad)

    def numpy(self, *arguments: Any, **options: Any) -> None:
        raise DeviceError("can't convert cuda:0 device type tensor to numpy; copy it to host memory first")

    __array__ = numpy

    def tolist(self) -> list:
        counts.wait("tolist")
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(  # ty: ignore[incompatible-method-override]  # Torch's own is a C function without types.
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Within it, what is asked to be made on ``cuda`` is made on the emulated device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        options = kwargs or {}
        tensors, _ = tree_flatten((args, options))
        if any(isinstance(each, CudaTensor) for each in tensors) or _is_cuda(options.get("device")):
            return _run(func, args, options)
        return func(*args, **options)


def _run(function: Any, arguments: tuple, options: dict) -> Any:
    """One operation: refused, counted, and computed on the CPU."""
    name = function.overloadpacket.__name__
    flat, _ = tree_flatten((arguments, options))
    ours = [each for each in flat if isinstance(each, CudaTensor)]
    hosts = [each for each in flat if isinstance(each, Tensor) and not isinstance(each, CudaTensor)]
    target = options.get("device")
    to_host = target is not None and torch.device(target).type == "cpu"
    to_device = _is_cuda(target)
    _refuse(name, arguments, ours, hosts)
    _count(name, arguments, options, ours, hosts, to_host, to_device)
    values, settings = tree_map_only(CudaTensor, lambda each: each.values, (arguments, options))
    if to_device:
        settings = settings | {"device": CPU}
    result = _computed(function, name, values, settings)
    on_device = isinstance(arguments[0], CudaTensor) if name == "copy_" else (ours or to_device) and not to_host
    if not on_device or not isinstance(result, (Tensor, tuple, list)):
        changed = function._schema.is_mutable and result is not None and isinstance(arguments[0], CudaTensor)
        return arguments[0] if changed else result
    wrapped = tree_map_only(Tensor, CudaTensor, result)
    if ours and any(returned.alias_info is not None for returned in function._schema.returns):
        return return_and_correct_aliasing(function, arguments, options, wrapped)
    return wrapped


def _refuse(name: str, arguments: tuple, ours: list, hosts: list[Tensor]) -> None:
    if not ours or not hosts or name in ("copy_", "_to_copy"):
        return
    if name in INDEXED:
        # Indices may be on the CPU: they are copied. Values may not, nor may what is indexed.
        placed = arguments[2:3] if name != "index" and name != "_unsafe_index" else ()
        wrong = [arguments[0], *(each for each in placed if each.dim() > 0)]
        wrong = [each for each in wrong if not isinstance(each, CudaTensor)]
    else:
        wrong = [each for each in hosts if each.dim() > 0]
    if wrong:
        raise DeviceError(f"{name}: tensors on cuda:0 and cpu, {tuple(wrong[0].shape)}, at {_caller()}")


def _count(name: str, arguments: tuple, options: dict, ours: list, hosts: list, to_host: bool, to_device: bool) -> None:
    if name == "_to_copy":
        if to_host and ours:
            counts.wait("copy to the host")
        elif to_device and not ours:
            if not options.get("non_blocking", False):
                counts.wait("blocking copy to the device")
        elif ours:
            counts.launches["_to_copy"] += 1
    elif name == "copy_":
        if not isinstance(arguments[0], CudaTensor):
            counts.wait("copy to the host")
        elif not isinstance(arguments[1], CudaTensor):
            if not (arguments[2] if len(arguments) > 2 else options.get("non_blocking", False)):
                counts.wait("blocking copy to the device")
        else:
            counts.launches["copy_"] += 1
    elif ours or to_device:
        if name in WAITS:
            counts.wait(name)
        if name in INDEXED:
            if hosts:
                counts.wait("index from the host")
            if any(isinstance(each, Tensor) and each.dtype == torch.bool for each in arguments[1]):
                counts.wait("boolean index")
        if name not in NO_LAUNCH:
            # A foreach kernel takes some thirty tensors at a time.
            counts.launches[name] += -(-len(arguments[0]) // 30) if name.startswith("_foreach") else 1


def _computed(function: Any, name: str, values: tuple, settings: dict) -> Any:
    flat, _ = tree_flatten((values, settings))
    if name in MATRIX_PRODUCTS and any(isinstance(each, Tensor) and each.dtype == torch.float16 for each in flat):
        single = tree_map_only(Tensor, lambda each: each.float() if each.dtype == torch.float16 else each, values)
        return tree_map_only(Tensor, lambda each: each.to(torch.float16), function(*single, **settings))
    return function(*values, **settings)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _caller() -> str:
    """The innermost line of the project, this file aside, that is being run."""
    for frame in reversed(traceback.extract_stack(limit=60)):
        path = Path(frame.filename)
        if path.is_relative_to(PROJECT) and path != Path(__file__).resolve():
            return f"{path.relative_to(PROJECT)}:{frame.lineno}"
    return "?"


@contextmanager
def emulated() -> Generator[Counts, None, None]:
    """Replaces for good, in this process, what of torch would look for a GPU; within the block there is one."""
    torch._C._ensureCUDADeviceGuardSet()  # One that does nothing, as long as there is no device.
    ctypes.CDLL(os.environ["LD_PRELOAD"]).set_devices(8)  # The autograd engine asks beyond the first one.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.cuda._lazy_init = lambda: None
    torch.cuda.is_available = lambda: True
    torch.cuda.set_device = torch.cuda.synchronize = lambda *_: None
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.cuda.graphs._cuda_isCurrentStreamCapturing = lambda: False
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.inference_mode = torch.no_grad  # Tensors made in it know no wrappers.
    Tensor.pin_memory = lambda self, *_, **__: self
    torch.cuda.Stream, torch.cuda.stream, torch.cuda.current_stream = _Stream, nullcontext, _Stream
    Tensor.record_stream = lambda self, stream: None
    for name in ("max_memory_allocated", "memory_allocated", "memory_reserved"):
        setattr(torch.cuda, name, lambda *_: 0)
    torch.cuda.reset_peak_memory_stats = torch.cuda.empty_cache = lambda *_: None
    torch.cuda.mem_get_info = lambda *_: (MEMORY, MEMORY)
    torch.cuda.get_device_properties = lambda *_: SimpleNamespace(name="emulated", total_memory=MEMORY)
    torch.Generator = _generator(torch.Generator)
    torch.save, torch.load = _saving(torch.save), _loading(torch.load)
    with Mode():
        yield counts


class _Stream:
    """All streams are one."""

    def __init__(self, *_: Any) -> None:
        pass

    def record_event(self) -> None:
        pass

    def wait_event(self, event: None) -> None:
        pass


def _generator(plain: type[torch.Generator]) -> type[torch.Generator]:
    class Generator(plain):  # ty: ignore[unsupported-base]  # The same class, whatever its name.
        """The CPU's numbers, whatever the device: a generator of the wrong device is not noticed."""

        def __new__(cls, device: Any = "cpu") -> torch.Generator:
            return plain()

    return Generator


def _saving(save: Callable) -> Callable:
    def saved(content: object, *arguments: Any, **options: Any) -> None:
        save(_converted(content, CudaTensor, lambda each: each.values.detach().clone()), *arguments, **options)

    return saved


def _loading(load: Callable) -> Callable:
    def loaded(*arguments: Any, map_location: Any = None, **options: Any) -> object:
        content = load(*arguments, map_location="cpu", **options)
        return _converted(content, Tensor, CudaTensor) if _is_cuda(map_location) else content

    return loaded


def _converted(content: Any, kind: type, convert: Callable) -> Any:
    if isinstance(content, kind):
        return convert(content)
    if isinstance(content, dict):
        return type(content)((name, _converted(each, kind, convert)) for name, each in content.items())
    if isinstance(content, (list, tuple)):
        return type(content)(_converted(each, kind, convert) for each in content)
    return content
