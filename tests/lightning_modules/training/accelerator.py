"""What waits for a device, and a device without hardware on which a step shows it.

`Waits` refuses the operations for which the host waits. It works on CPU tensors; but there a tensor
made on the CPU in the middle of a step goes unnoticed. So the steps also run on torch's private
device, made of fake tensors, which have a device, shapes and types but no values: mixing devices
raises, and so does reading a value. The device is registered for the whole process, hence in one
of its own (`on_fake_device`).
"""

import multiprocessing
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "pretended"
#: Their results' shapes, or their results, are values that the host has to read.
READING = frozenset(
    {"_local_scalar_dense", "is_nonzero", "nonzero", "nonzero_static", "masked_select", "equal"}
    | {"_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"}
    | {"bincount", "histc", "allclose"}
)
#: On a GPU they refuse a deterministic run, from which a run resumes to the bit. Source: torch's
#: documentation of `use_deterministic_algorithms`.
NOT_DETERMINISTIC = frozenset(
    {"cumsum", "bincount", "histc", "kthvalue", "median", "nanmedian", "put", "put_"}
    | {"scatter_reduce", "index_reduce", "nll_loss2d_forward", "_ctc_loss_backward"}
    | {"grid_sampler_2d_backward", "max_unpool2d", "max_pool3d_with_indices_backward"}
    | {"reflection_pad1d_backward", "replication_pad1d_backward", "_embedding_bag_dense_backward"}
    | {"upsample_linear1d_backward", "upsample_bilinear2d_backward"}
    | {"adaptive_avg_pool2d_backward", "_adaptive_avg_pool2d_backward"}
    | {"adaptive_max_pool2d_backward", "avg_pool3d_backward"}
)
#: They start no kernel.
FREE = frozenset(
    {"detach", "alias", "_unsafe_view", "split", "split_with_sizes", "unbind", "chunk", "set_"}
    | {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
    | {"lift_fresh", "record_stream"}
)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)


def _devices(values: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}


class Waits(TorchDispatchMode):
    """Raises at an operation for which the host waits; counts those that start a kernel.

    Args:
        device: Type of the device that must not be waited for; None stands for any.

    Attributes:
        counts: How many there were, by name.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = device
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function._schema.name.split("::")[1]
        devices = _devices(args)
        if self.device is not None and devices == {"cpu"} and name in READING:
            return function(*args, **(kwargs or {}))
        if name in READING:
            raise AssertionError(f"waits for the device: {function}")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            _is_boolean(index) for index in args[1]
        ):
            raise AssertionError(f"waits for the device: {function} by a boolean index")
        result = function(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_", "_copy_from", "scalar_tensor", "index", "index_put"):
            devices |= {
                leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor)
            }
            if len(devices) > 1:
                raise AssertionError(f"waits for the device: {function} between {devices}")
        if not function.is_view and name not in FREE:
            self.counts[name] += 1
        return result

    @property
    def n(self) -> int:
        """Operations that start a kernel (about: some start several)."""
        return sum(self.counts.values())


class _Module:
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


def to_fake(values: dict[str, Tensor], mode: FakeTensorMode) -> dict[str, Tensor]:
    """The tensors of a batch without their values, on the device."""
    with mode:
        return {
            name: torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
            for name, value in values.items()
        }


def move(module: nn.Module, mode: FakeTensorMode) -> None:
    """A module's weights and buffers without their values, on the device, in place."""
    for part in module.modules():
        weights = {name: w for name, w in part._parameters.items() if w is not None}
        with mode:
            for name, fake in to_fake(weights, mode).items():
                trains = weights[name].requires_grad
                part._parameters[name] = nn.Parameter(fake, requires_grad=trains)
        buffers = {name: value for name, value in part._buffers.items() if value is not None}
        part._buffers |= to_fake(buffers, mode)


def _serve(pipe: Any, functions: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
    torch.set_num_threads(1)
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(DEVICE, backend_module=_Module())
    results = []
    for function, arguments in functions:
        try:
            results.append((True, function(*arguments)))
        except Exception as error:
            results.append((False, f"{type(error).__name__}: {error}"))
    pipe.send(results)


def on_fake_device(
    functions: list[tuple[Callable[..., Any], tuple[Any, ...]]],
) -> list[tuple[bool, Any]]:
    """Call functions one after the other where the fake device is.

    Args:
        functions: Of a module's top floor, with their arguments; picklable.

    Returns:
        For each whether it went well, and its result or what was raised.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, functions), daemon=True)
    process.start()
    theirs.close()  # else its end would not be noticed
    assert ours.poll(240), "the fake device does not answer"
    results: list[tuple[bool, Any]] = ours.recv()
    process.join(30)
    return results
