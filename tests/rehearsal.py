"""A second device for tests on a CPU. Its tensors say that they are on cuda:0, and compute on the CPU.

    with Rehearsal() as gpu:
        ...  .to("cuda") ...            gpu.syncs: the places where the program waited for the device

It raises where CUDA does: an operation on tensors of both devices, a generator of the other device, `.numpy()` of a tensor on the device,
and an operation without a deterministic form where those are asked for. Everything else gives the numbers of the CPU to rounding.
FakeTensors on "cuda" cannot replace it: a CPU build of torch ends the process at the first gradient, and fake tensors have no values, which
evaluators need. Autocast does not see these tensors; types are tested with FakeTensors and without gradients.

The tensors are wrappers on the device "meta", which autograd treats like the CPU.
"""

import contextlib
import ctypes
import functools
import sys
from pathlib import Path
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

ROOT = Path(__file__).resolve().parents[1]
GENERATOR = torch.Generator
REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry
CUDA, META = torch.device("cuda", 0), torch.device("meta")
COPIES = {"_to_copy", "copy_"}
TAKES_INDEX = {"index", "index_put", "index_put_"}  # CUDA copies the indices to the device by itself
WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "bincount", "unique_consecutive"}
NOT_DETERMINISTIC = {"kthvalue", "histc", "put_", "scatter_reduce", "max_unpool2d", "index_reduce"}  # and cumsum of floats


class OnDevice(torch.Tensor):
    """A tensor on the second device; `inner` has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        shape = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=META, **shape)
        made.inner = inner
        return made

    def __repr__(self):
        return f"OnDevice({self.inner!r})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return Rehearsal.current.compute(function, args, kwargs or {})


class Rehearsal(TorchDispatchMode):
    """The second device. `syncs` are (operation, file and function of this repository, number of values) in order."""

    current: "Rehearsal"

    def __init__(self, *, default: bool = False):
        super().__init__()
        self.syncs: list[tuple[str, str, int]] = []
        self.touched = 0  # elements of whole numbers that operations have read, other than views
        self.around = [
            mock.patch("torch.cuda.is_available", lambda: True),
            mock.patch("torch.cuda.get_device_capability", lambda *_: (9, 0)),
            mock.patch("torch.cuda.get_device_name", lambda *_: "rehearsal"),
            mock.patch("torch.cuda.set_device", lambda *_: None),
            mock.patch("torch.Generator", _Generator),
            _Devices(),
            *[META] * default,
        ]
        self.generators: list[torch.Generator] = []  # those of the device
        self.draws_there = False  # whether the current operation has one of them

    def __enter__(self):
        Rehearsal.current = self
        for context in self.around:
            context.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        for context in reversed(self.around):
            context.__exit__(*exception)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.compute(function, args, kwargs or {})

    def compute(self, function, args, kwargs):
        name = function.overloadpacket.__name__
        tensors: list[torch.Tensor] = []
        plain_args, plain_kwargs = _mapped(lambda leaf: _inner(leaf, tensors), args), _mapped(lambda leaf: _inner(leaf, tensors), kwargs)
        there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        here = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim]
        assert not any(tensor.device == META for tensor in here), f"{name} of a tensor that this device has not made"
        asked = kwargs.get("device")
        is_there = bool(there) if asked is None else torch.device(asked).type in ("cuda", "meta")
        if there and here and name not in COPIES and not (name in TAKES_INDEX and isinstance(args[0], OnDevice)):
            raise AssertionError(f"{name} of tensors on two devices, at {_place()}")
        generator = kwargs.get("generator")
        if generator is not None and self.draws_there != is_there:
            raise AssertionError(f"{name} with a generator of another device, at {_place()}")
        if torch.are_deterministic_algorithms_enabled() and there:
            floats = name in ("cumsum", "cumsum_") and there[0].is_floating_point()
            if name in NOT_DETERMINISTIC or floats or (name == "bincount" and len(tensors) > 1):
                raise AssertionError(f"{name} has no deterministic form on CUDA, at {_place()}")
        to_host = name in COPIES and there and (not is_there or (name == "copy_" and not isinstance(args[0], OnDevice)))
        mask = name in TAKES_INDEX and any(tensor.dtype in (torch.bool, torch.uint8) for tensor in there[1:])
        if there and (name in WAITS or to_host or mask or (name in TAKES_INDEX and here)):
            self.syncs.append((name, _place(), there[0].numel()))
        is_view, changes = _kind(function)
        if not is_view:
            self.touched += sum(tensor.numel() for tensor in tensors if not tensor.is_floating_point())
        if asked is not None:
            plain_kwargs["device"] = torch.device("cpu")
        out = function(*plain_args, **plain_kwargs)
        if name == "_to_copy" and asked is not None and tensors and is_there == bool(there) and out is plain_args[0]:
            out = out.clone()
        if not is_there and not there:
            return out
        if name == "copy_":
            return args[0]
        if not is_there:
            return out
        out = _mapped(lambda leaf: OnDevice(leaf) if isinstance(leaf, torch.Tensor) else leaf, out)
        return return_and_correct_aliasing(function, args, kwargs, out) if there and (is_view or changes) else out


class _Generator(torch.Generator):
    """Makes the generators of both devices; Rehearsal knows those of its own."""

    def __new__(cls, device="cpu"):
        made = GENERATOR()
        if torch.device(device).type == "cuda":
            Rehearsal.current.generators.append(made)
        return made


class _Devices(TorchFunctionMode):
    """Turns the device "cuda" in arguments into "meta", which Rehearsal computes."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.pin_memory:
            return args[0]
        if function is torch.device:
            return function(*args, **kwargs or {})
        args, kwargs = _mapped(_meta, args), _mapped(_meta, kwargs or {})
        if function is torch.Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype), device="cpu").to(META)
        if kwargs.get("generator") is not None:
            Rehearsal.current.draws_there = any(kwargs["generator"] is one for one in Rehearsal.current.generators)
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") == META:
            return function(*args, **kwargs | {"device": "cpu"}).to(META)
        return function(*args, **kwargs)


def _mapped(function, value):
    """`value` with `function` applied to what its tuples, lists and dicts hold. torch's own pytrees take most of a rehearsal's time."""
    if type(value) in (tuple, list):
        return type(value)(_mapped(function, leaf) for leaf in value)
    if type(value) is dict:
        return {key: _mapped(function, leaf) for key, leaf in value.items()}
    return function(value)


def _inner(leaf, tensors: list[torch.Tensor]):
    """What the CPU computes with in the place of an argument; a tensor is added to `tensors`."""
    if isinstance(leaf, torch.Tensor):
        tensors.append(leaf)
        return leaf.inner if isinstance(leaf, OnDevice) else leaf
    return leaf


@functools.cache
def _kind(function) -> tuple[bool, bool]:
    """Whether an operation gives a view, and whether it changes an argument."""
    return function.is_view, function._schema.is_mutable


def _meta(leaf):
    is_device = isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf in ("cuda", "cuda:0"))
    return META if is_device and torch.device(leaf).type == "cuda" else leaf


def _place() -> str:
    """The innermost file and function of this repository's stages."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(str(ROOT / "stages")):
        frame = frame.f_back
    return "a test" if frame is None else f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_code.co_name}"


@contextlib.contextmanager
def fake_cuda():
    """FakeTensors may be on "cuda" inside, without values and without gradients, and autocast acts on them as on a GPU.

    A CPU build of torch has no guard that remembers the current GPU; it is given that of the device "meta", which does nothing.
    """
    registry = (ctypes.c_void_p * 16).in_dll(ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libc10.so")), REGISTRY)
    before, registry[1] = registry[1], registry[1] or registry[14]  # the places of cuda and of meta
    try:
        with (
            mock.patch("torch.cuda.is_available", lambda: True),
            mock.patch("torch.cuda.is_bf16_supported", lambda *_: True),
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            mock.patch("torch.cuda.get_device_capability", lambda *_: (9, 0)),
            FakeTensorMode(),
            torch.no_grad(),
        ):
            yield
    finally:
        registry[1] = before
