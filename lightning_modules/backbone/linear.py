"""A linear layer that is fast on CPUs too; on a GPU, and in its weights, it is `nn.Linear`.

torch multiplies float32 matrices on x86 by MKL, which on AMD's processors uses vectors of half
their width: 95 GFLOP/s a core (Zen 5), where oneDNN, which torch brings along, reaches 220. Both
compute in float32; they differ in rounding.

Shapes: M rows (batch and tokens together), K inputs, N outputs.
"""

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

#: The operator's further arguments: nothing follows the product.
_PLAIN: tuple[Any, ...] = ("none", [], "")


def _find_kernel() -> Any:
    """Find oneDNN's linear layer, which torch has for its compiler (hence the underscore)."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.enabled:
        return None
    kernel = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return kernel if kernel is not None and _works(kernel) else None


def _works(kernel: Any) -> bool:
    """Whether the operator is still what it was: private ones may change with any version."""
    rows, weight, bias = torch.eye(3, 2), torch.tensor([[1.0, 2.0]] * 4), torch.ones(4)
    try:
        return torch.allclose(
            kernel(rows, weight, bias, *_PLAIN), F.linear(rows, weight, bias), atol=1e-6
        )
    except (RuntimeError, TypeError, NotImplementedError):
        return False


_KERNEL = _find_kernel()


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply: rows · weightᵀ + bias; transposed arguments are copied first."""
    product: Tensor = _KERNEL(rows, weight, bias, *_PLAIN)
    return product


class _Linear(torch.autograd.Function):
    """`F.linear` and its gradients by oneDNN, float32."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        return _product(tokens, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        tokens, weight = ctx.saved_tensors
        gradient_MN = gradient.reshape(-1, gradient.shape[-1])
        for_tokens = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_tokens = _product(gradient_MN, weight.t()).view_as(tokens)
        if ctx.needs_input_grad[1]:
            tokens_MK = tokens.reshape(-1, tokens.shape[-1])
            # The first argument's copy is the slow one: the smaller takes that place (twice as fast
            # for the layers of a feed-forward network).
            if gradient_MN.shape[1] > tokens_MK.shape[1]:
                for_weight = _product(tokens_MK.t(), gradient_MN.t()).t()
            else:
                for_weight = _product(gradient_MN.t(), tokens_MK.t())
        if ctx.needs_input_grad[2]:
            for_bias = gradient_MN.sum(0)
        return for_tokens, for_weight, for_bias


class Linear(nn.Linear):
    """`nn.Linear`, in float32 on x86 CPUs by oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer, (..., K) to (..., N)."""
        by_onednn = (
            _KERNEL is not None
            and input.device.type == "cpu"
            and input.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )
        if by_onednn and input.numel():
            output: Tensor = _Linear.apply(input, self.weight, self.bias)
            return output
        return F.linear(input, self.weight, self.bias)


if _KERNEL is not None:

    @register_flop_formula(_KERNEL)
    def _flops(rows: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        """Two operations a multiplication and addition, as torch counts `mm`."""
        n_rows = 1
        for size in rows[:-1]:
            n_rows *= size
        return 2 * n_rows * rows[-1] * weight[0]
