import torch

from lightning_modules.metrics.reconstruction import MaskedReconstructionError
from lightning_modules.objectives.losses import masked_squared_error


def test_masked_loss_equals_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(5, 4, 3, generator=generator) for _ in range(2))
    masked = torch.rand(5, 4, generator=generator) < 0.5
    masked[1] = False
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    errors = []
    for b in (0, 3, 4):
        squares = [
            float((prediction[b, m, p] - target[b, m, p]) ** 2)
            for m in range(4)
            for p in range(3)
            if masked[b, m]
        ]
        errors.append(sum(squares) / len(squares))
    loss = masked_squared_error(prediction, target, masked, weight)
    torch.testing.assert_close(loss, torch.tensor(sum(errors) / 3))


def test_masked_loss_ignores_what_is_not_masked_even_nan() -> None:
    prediction = torch.zeros(2, 3, 4, requires_grad=True)
    target = torch.ones(2, 3, 4)
    masked = torch.tensor([[True, False, True], [False, False, False]])
    target[~masked] = float("nan")
    loss = masked_squared_error(prediction, target, masked, torch.ones(2))
    loss.backward()
    assert loss == 1.0
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[~masked] == 0).all()


def test_loss_of_a_batch_is_the_mean_of_its_halves() -> None:
    generator = torch.Generator().manual_seed(1)
    prediction, target = (torch.randn(8, 6, 3, generator=generator) for _ in range(2))
    masked = torch.rand(8, 6, generator=generator) < 0.5
    parts = [
        masked_squared_error(prediction[s], target[s], masked[s], torch.ones(4))
        for s in (slice(0, 4), slice(4, 8))
    ]
    whole = masked_squared_error(prediction, target, masked, torch.ones(8))
    torch.testing.assert_close(whole, (parts[0] + parts[1]) / 2)


def test_reconstruction_error_is_one_for_its_own_baselines() -> None:
    generator = torch.Generator().manual_seed(2)
    target = torch.rand(50, 7, generator=generator) * torch.arange(1, 8)
    selected = torch.rand(50, 7, generator=generator) < 0.5
    constant = target[selected].mean().expand_as(target)
    by_point = torch.stack([target[selected[:, p], p].mean() for p in range(7)]).expand_as(target)
    for prediction, name in ((constant, "vs_constant"), (by_point, "vs_mean_pattern")):
        metric = MaskedReconstructionError(7)
        # In two parts, and with junk where nothing counts.
        junk = target.masked_fill(~selected, float("nan"))
        metric.update(prediction[:20], junk[:20], selected[:20])
        metric.update(prediction[20:], junk[20:], selected[20:])
        torch.testing.assert_close(metric.compute()[name], torch.tensor(1.0))
    metric = MaskedReconstructionError(7)
    metric.update(target, target, selected)
    assert metric.compute() == {"mse": 0.0, "vs_constant": 0.0, "vs_mean_pattern": 0.0}


def test_mse_is_unweighted() -> None:
    metric = MaskedReconstructionError(2)
    target = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    selected = torch.tensor([[True, False], [True, True]])
    metric.update(torch.zeros(2, 2), target, selected)
    torch.testing.assert_close(metric.compute()["mse"], torch.tensor((1 + 9 + 25) / 3))
