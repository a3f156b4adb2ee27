import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.metrics.reconstruction import (
    MaskedReconstructionError,
    StrongestLine,
    highest,
    strongest_line,
)
from lightning_modules.objectives.losses import masked_cross_entropy, masked_squared_error
from lightning_modules.training.callbacks.figures import reconstruction_figure


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


def test_cross_entropy_equals_a_plain_loop_over_one_density_a_pattern() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = (torch.randn(5, 4, 3, generator=generator) for _ in range(2))
    masked = torch.rand(5, 4, generator=generator) < 0.6
    masked[1] = False
    masked[0] = True
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    errors = []
    for b in (0, 3, 4):
        points = [(m, p) for m in range(4) for p in range(3) if masked[b, m]]
        normal = sum(math.exp(logits[b, m, p]) for m, p in points)
        total = sum(float(target[b, m, p]) ** 2 for m, p in points)
        errors.append(
            -sum(
                float(target[b, m, p]) ** 2 / total * math.log(math.exp(logits[b, m, p]) / normal)
                for m, p in points
            )
        )
    loss = masked_cross_entropy(logits, target, masked, weight)
    torch.testing.assert_close(loss, torch.tensor(sum(errors) / 3))
    # It asks where, not how much: scale of the target and offset of the logits are nothing.
    again = masked_cross_entropy(logits + 7.0, 0.3 * target, masked, weight)
    torch.testing.assert_close(again, loss)


@pytest.mark.parametrize(
    ("error", "expected"), [(masked_squared_error, 1.0), (masked_cross_entropy, math.log(8))]
)
def test_masked_loss_ignores_what_is_not_masked_even_nan(error: object, expected: float) -> None:
    assert callable(error)
    prediction = torch.zeros(2, 3, 4, requires_grad=True)
    target = torch.ones(2, 3, 4)
    masked = torch.tensor([[True, False, True], [False, False, False]])
    target[~masked] = float("nan")
    loss = error(prediction, target, masked, torch.ones(2))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected)
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[~masked] == 0).all()


@pytest.mark.parametrize("error", [masked_squared_error, masked_cross_entropy])
def test_loss_of_a_batch_is_the_mean_of_its_halves(error: object) -> None:
    assert callable(error)
    generator = torch.Generator().manual_seed(1)
    prediction, target = (torch.randn(8, 6, 3, generator=generator) for _ in range(2))
    masked = torch.rand(8, 6, generator=generator) < 0.5
    parts = [
        error(prediction[s], target[s], masked[s], torch.ones(4))
        for s in (slice(0, 4), slice(4, 8))
    ]
    whole = error(prediction, target, masked, torch.ones(8))
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


def peaks(*places: tuple[int, float]) -> Tensor:
    """A pattern of 100 points with triangles of width 5 at stated points, of stated heights."""
    points = torch.arange(100.0)
    return sum(
        (h * (1 - (points - at).abs() / 3).clamp_min(0) for at, h in places), torch.zeros(100)
    )


def test_the_strongest_hidden_line_is_one_whose_apex_is_hidden() -> None:
    # Hidden: points 30 to 59. The strong line at 29 is visible, its tail reaches in.
    selected = torch.zeros(5, 100, dtype=torch.bool)
    selected[:, 30:60] = True
    selected[4] = False
    target = peaks((29, 1.0), (40, 0.3), (55, 0.2)).expand(5, -1)
    prediction = torch.stack(
        [
            peaks((29, 1.0)),  # the tail only
            peaks((42, 0.1), (80, 9.0)),  # right by two points; what is visible does not count
            peaks((43, 0.1)),  # wrong by one point too many
            peaks((55, 0.1)),  # another line
            peaks((40, 1.0)),  # nothing is hidden
        ]
    )
    metric = StrongestLine(100, step=0.1, tolerance=0.2)
    metric.update(prediction[:2], target[:2], selected[:2])
    metric.update(prediction[2:], target[2:], selected[2:])
    values = metric.compute()
    assert values["lines"] == 4
    assert values["line_placed"] == 0.25


def test_the_mean_pattern_is_judged_on_the_points_that_it_was_made_of() -> None:
    target = torch.stack([peaks((40, 1.0)), peaks((40, 1.0)), peaks((70, 1.0), (20, 0.1))])
    selected = torch.ones(3, 100, dtype=torch.bool)
    selected[1, 38:60] = False  # its line is not hidden: another is not there
    selected[2, :50] = False
    metric = StrongestLine(100, step=0.1, tolerance=0.2)
    for rows in (slice(0, 1), slice(1, 3)):
        metric.update(target[rows] * 0, target[rows], selected[rows])
    values = metric.compute()
    assert values["lines"] == 2
    # At 40 the mean of two is 1, at 70 the half: seen by both, and right for both.
    assert values["line_placed_by_mean_pattern"] == 1.0
    selected[2] = True
    metric.reset()
    metric.update(target * 0, target, selected)
    assert metric.compute()["line_placed_by_mean_pattern"] == pytest.approx(0.5)


def test_a_picture_marks_the_strongest_hidden_line_and_where_the_model_puts_it() -> None:
    two_theta = np.linspace(10, 20, 100)
    target = torch.stack([peaks((29, 1.0), (40, 0.3)), peaks((29, 1.0))])
    selected = torch.zeros(2, 100, dtype=torch.bool)
    selected[:, 30:60] = True
    made = peaks((45, 0.2)).expand(2, -1)
    strongest = strongest_line(target, selected)
    assert strongest.tolist() == [40, -1]
    figure = reconstruction_figure(
        two_theta,
        np.array([[11, 17]] * 2),
        np.array([[0.5, 0.5]] * 2),
        *(x.numpy() for x in (target, selected, made, made)),
        strongest.numpy(),
        highest(made, selected).numpy(),
    )
    marks = [
        [line.get_xdata() for line in a.lines if line.get_marker() == "v"] for a in figure.axes
    ]
    assert np.ravel(marks[0]).tolist() == [two_theta[40], two_theta[45]]
    assert marks[1] == [], "nothing is marked where no line is hidden"
