"""What the GPU's benchmark compares with is the same function."""

import torch
import torch.nn.functional as F
from gpu_worker import attend_by_feature


def test_a_mask_as_a_feature_gives_the_values_and_gradients_of_a_mask() -> None:
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(4, 2, n, 16) for n in (7, 13, 13))
    real = torch.arange(13) < torch.tensor([1, 3, 8, 13])[:, None]
    found = []
    for masked in (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, real[:, None, None]),
        lambda q, k, v: attend_by_feature(q, k, v, real),
    ):
        given = [x.clone().requires_grad_() for x in (queries, keys, values)]
        out = masked(*given)
        (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
        found.append([out.detach(), *(x.grad for x in given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
