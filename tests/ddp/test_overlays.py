"""The overlay for several processes together with what is combined with it."""

from pathlib import Path

import pytest
import torch

from tests.ddp.launch import ROOT, xxact
from tests.factories import make_store

pytestmark = pytest.mark.ddp

TRAINER = ROOT / "configs" / "trainer"


def weights(store: Path, run: Path, *more: str) -> dict[str, torch.Tensor]:
    result = xxact(
        "fit",
        store,
        run,
        f"--config={TRAINER / 'ddp.yaml'}",
        "--trainer.accelerator=cpu",
        "--trainer.devices=2",
        "--trainer.limit_val_batches=0",
        "--trainer.max_steps=3",
        *more,
        processes=2,
    )
    assert result.status == 0, result.output
    found: dict[str, torch.Tensor] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)[
        "state_dict"
    ]
    return found


def test_gradients_accumulate_compiled_or_not_in_bfloat16_or_not(tmp_path: Path) -> None:
    """With a static graph torch fails with an internal error when gradients accumulate."""
    store = make_store(tmp_path / "store", 100).folder
    accumulate = ("--data.global_batch_size=6", "--trainer.accumulate_grad_batches=2")
    eager = weights(store, tmp_path / "eager", *accumulate)
    compiled = weights(
        store,
        tmp_path / "compiled",
        *accumulate,
        f"--config={TRAINER / 'compile.yaml'}",
        "--trainer.callbacks.backend=aot_eager",
    )
    assert compiled.keys() == eager.keys()
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-4, rtol=1e-3)
    rough = weights(store, tmp_path / "bf16", f"--config={TRAINER / 'bf16.yaml'}")
    assert all(value.isfinite().all() for value in rough.values() if value.is_floating_point())
