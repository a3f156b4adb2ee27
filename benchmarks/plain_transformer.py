r"""Does the composition encoder hold its own against a plain transformer on the same split?

    .venv/bin/python benchmarks/plain_transformer.py --store data/materials_project \
        [--target formation_energy] [--run runs/composition …] [--steps 1540]

Trains `torch.nn.TransformerEncoder` (width 128, 3 layers, pre-norm) on one token an element, an
embedding of the element plus its fraction, by the absolute error: AdamW, cosine after a warm-up,
batches of 128, nothing else. `--run` names runs tested with `xxact test` and sets their errors on
the same test materials beside it. The last line is a JSON object with the ratio.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from baselines import of_a_run
from torch import Tensor, nn

from datamodules import batch as keys
from datamodules.xrd_datamodule import XRDDataModule

WIDTH, LAYERS, BATCH = 128, 3, 128


class PlainTransformer(nn.Module):
    """Elements and fractions (B, E) to one standardised value (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.element = nn.Embedding(119, WIDTH)
        self.fraction = nn.Linear(2, WIDTH)
        self.summary = nn.Parameter(torch.zeros(WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1)
        )

    def forward(self, elements: Tensor, fractions: Tensor) -> Tensor:
        """Standardised values, (B,)."""
        value: Tensor = self.head(self.vector(elements, fractions))
        return value[:, 0]

    def vector(self, elements: Tensor, fractions: Tensor) -> Tensor:
        """What the head reads, (B, WIDTH)."""
        numbers = torch.stack((fractions * 3, (fractions + 1e-3).log() / 3), dim=-1)
        tokens = self.element(elements) + self.fraction(numbers)
        tokens = torch.cat((self.summary.expand(len(tokens), 1, -1), tokens), dim=1)
        padding = torch.cat((torch.zeros_like(elements[:, :1]), elements), dim=1) == 0
        padding[:, 0] = False
        summary: Tensor = self.encoder(tokens, src_key_padding_mask=padding)[:, 0]
        return summary


def compositions(data: XRDDataModule) -> tuple[Tensor, Tensor]:
    """Elements and fractions of all rows, (rows, E) each."""
    batches = list(data.stream("all"))
    there = torch.cat([b[keys.WEIGHT] > 0 for b in batches])
    order = torch.cat([b[keys.INDEX] for b in batches])[there].argsort()
    elements, fractions = (
        torch.cat([b[name] for b in batches])[there][order]
        for name in (keys.ELEMENTS, keys.FRACTIONS)
    )
    return elements, fractions


def train(
    elements: Tensor, fractions: Tensor, labels: Tensor, rows: Tensor, steps: int, seed: int
) -> PlainTransformer:
    """Train on the rows; labels are standardised."""
    torch.manual_seed(seed)
    model = PlainTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=steps, pct_start=0.06
    )
    queue = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(queue) < BATCH:
            queue = rows[torch.randperm(len(rows))]
        drawn, queue = queue[:BATCH], queue[BATCH:]
        loss = (model(elements[drawn], fractions[drawn]) - labels[drawn]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--target", default="formation_energy")
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("--steps", type=int, default=1540)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    data = XRDDataModule(given.store, [given.target], augment=False)
    labels = torch.from_numpy(data.collection.column(given.target).astype(np.float32))
    there = labels.isfinite().numpy()
    rows = {
        split: torch.from_numpy(data.rows(split)[there[data.rows(split)]])
        for split in ("train", "test")
    }
    mean, spread = labels[rows["train"]].mean(), labels[rows["train"]].std()
    elements, fractions = compositions(data)
    test = rows["test"]
    # Before the training: a run that was not tested is told at once.
    ids = data.collection.column("id")[test.numpy()]
    truth = labels[test].numpy()
    runs = {
        str(run): {
            mode: float(np.nanmean(np.abs(value - truth)))
            for mode, value in of_a_run(run, given.target, ids).items()
        }
        for run in given.run
    }
    # A fused model is judged by what it says from both.
    errors = [modes.get("both", min(modes.values())) for modes in runs.values()]
    plain = []
    for seed in range(given.seeds):
        model = train(
            elements, fractions, (labels - mean) / spread, rows["train"], given.steps, seed
        ).eval()
        with torch.no_grad():
            value = model(elements[test], fractions[test]) * spread + mean
        plain.append(float((value - labels[test]).abs().mean()))
        print(f"plain transformer, seed {seed}: test MAE {plain[-1]:.4f}", flush=True)
    print(
        json.dumps(
            {
                "target": given.target,
                "train": len(rows["train"]),
                "test": len(test),
                "plain_mae": plain,
                "runs": runs,
                "ratio": float(np.mean(errors) / np.mean(plain)) if runs else None,
            }
        )
    )


if __name__ == "__main__":
    main()
