"""How a run trains: who decays, which precisions work, what stops it."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor

from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules import checkpoints
from lightning_modules.base import Task
from lightning_modules.metrics.reconstruction import MaskedReconstructionError, StrongestLine
from lightning_modules.metrics.retrieval import Retrieval
from lightning_modules.objectives.parameter_groups import parameter_groups, regrouped
from lightning_modules.regression import Regression
from lightning_modules.training import calibration
from lightning_modules.training.callbacks.averaging import EMAWeights
from lightning_modules.training.callbacks.every_run import LastCheckpoint, MetricsWriter
from lightning_modules.training.callbacks.requeue import Requeue
from tests.factories import make_store
from tests.lightning_modules.batches import GRID, identified
from tests.lightning_modules.checkpoints.test_stored_checkpoints import STORED
from tests.lightning_modules.tasks import CONFIG, TASKS, make_task, task_batch


def spared(task: Task, layer_decay: float = 1.0) -> set[str]:
    """Names of the parameters without weight decay."""
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    groups = parameter_groups(task, CONFIG, 1e-3, layer_decay)
    return {names[id(p)] for g in groups if g.get("weight_decay") == 0.0 for p in g["params"]}


@pytest.mark.parametrize("name", TASKS)
def test_only_matrices_that_layers_multiply_by_decay(name: str) -> None:
    task = make_task(name)
    inputs = {"backbone.composition.element.weight", "backbone.xrd.summary"}
    if name != "Contrastive":  # its fusion is frozen
        inputs.add("backbone.fusion.pool.queries")
    assert inputs <= spared(task) == spared(task, 0.5)
    trained = {n: p for n, p in task.named_parameters() if p.requires_grad}
    decaying = set(trained) - spared(task)
    assert "backbone.xrd.stem.0.weight" in decaying
    assert all(n.endswith("weight") and trained[n].ndim == 2 for n in decaying)


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_an_optimizer_of_the_first_version_finds_its_parameters(path: Path) -> None:
    task = checkpoints.load_task(path)
    config, checkpoint = task.optimizer_config, checkpoints.read(path)
    state = checkpoint["optimizer_states"][0]
    groups = parameter_groups(task, task.backbone.config, 1e-3, config.layer_decay)
    mended = regrouped(state, task, task.backbone.config, config.layer_decay)
    optimizer = torch.optim.AdamW(groups)
    with pytest.raises(ValueError, match="doesn't match the size"):  # what is mended
        optimizer.load_state_dict(state)
    optimizer.load_state_dict(mended)
    moments = [optimizer.state[p]["exp_avg"] for g in groups for p in g["params"]]
    assert [m.shape for m in moments] == [p.shape for g in groups for p in g["params"]]
    assert regrouped(mended, task, task.backbone.config, config.layer_decay) is mended
    element = next(i for i, n in enumerate(names(task)) if n.endswith("element.weight"))
    torch.testing.assert_close(
        optimizer.state[task.backbone.composition.element.weight]["exp_avg"],
        state["state"][element]["exp_avg"],
    )


def names(task: Task) -> list[str]:
    """The order of the first version: what has two axes, then the rest."""
    trained = [(n, p) for n, p in task.named_parameters() if p.requires_grad]
    return [n for vector in (False, True) for n, p in trained if (p.ndim < 2) == vector]


def test_half_precision_clips_gradients() -> None:
    task = make_task("MaskedXRD")
    task._trainer = SimpleNamespace(precision="16-mixed", max_steps=10)  # type: ignore[assignment]
    half: Any = task.configure_optimizers()
    plugin = MixedPrecision("16-mixed", "cuda", torch.amp.GradScaler("cpu"))
    plugin.clip_gradients(half["optimizer"], 1.0)
    task._trainer.precision = "bf16-mixed"  # type: ignore[misc,union-attr]
    fused: Any = task.configure_optimizers()
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        plugin.clip_gradients(fused["optimizer"], 1.0)


def no_double(tensor: Tensor) -> Tensor:
    """What moving to one of Apple's GPUs does; there is none here."""
    if tensor.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
    return tensor.to("meta")


def test_sums_in_double_precision_stay_where_there_is_some() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.rand(2, 4, 50, generator=generator).unbind()
    selected = torch.rand(4, 50, generator=generator) > 0.5
    for make in (lambda: MaskedReconstructionError(50), lambda: StrongestLine(50, 0.1)):
        metric, plain = make(), make()
        metric._apply(no_double)
        for each in (metric, plain):
            each.update(prediction, target, selected)
            each.reset()
            each.update(prediction, target, selected)
        assert metric.compute() == plain.compute()
    assert no_double(torch.zeros(1)).device.type == "meta"


@pytest.fixture
def store(tmp_path: Path) -> str:
    make_store(tmp_path / "store", 200)
    return str(tmp_path / "store")


def trainer(folder: Path, *callbacks: Callback, **changes: Any) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{
            "max_steps": 4,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": bool([c for c in callbacks if isinstance(c, LastCheckpoint)]),
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 2,
            "gradient_clip_val": 1.0,
            **changes,
        },
    )


def data(store: str, *targets: str) -> XRDDataModule:
    return XRDDataModule([store], list(targets), global_batch_size=8, grid=GRID)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_precisions_that_round_the_data_are_refused(
    precision: str, store: str, tmp_path: Path
) -> None:
    task = make_task("MaskedXRD")
    with pytest.raises(ValueError, match=rf"trainer\.precision is {precision}: must be one of"):
        trainer(tmp_path, precision=precision).fit(task, data(store))


def test_intervals_are_of_the_answers_that_are_given(store: str, tmp_path: Path) -> None:
    """A run in bfloat16 calibrates what `xxact predict` answers, which is in float32."""
    torch.manual_seed(0)
    task, source = Regression(["density"], CONFIG, GRID), data(store, "density")
    run = trainer(tmp_path, precision="bf16-mixed", max_steps=2)
    run.fit(task, source)
    table = calibration.predict_split(run, task.eval(), source.calibration_dataloader())
    answers = {}
    for lines in source.calibration_dataloader():
        batch = source.renderer(lines, augment=False)
        with torch.no_grad():
            value = task.predict(batch, "both").value[:, 0]
        answers |= dict(zip(batch["index"].tolist(), value.tolist(), strict=True))
    expected = [answers[row] for row in table.index.tolist()]
    torch.testing.assert_close(table.value[:, 0, 0], torch.tensor(expected), rtol=0, atol=1e-6)


def test_the_head_answers_in_float32_under_bfloat16() -> None:
    task, batch = make_task("Regression"), task_batch()
    assert isinstance(task, Regression)
    everyone = torch.ones(8, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = task.encode(batch, None, everyone, everyone)
        value, spread = task._answer(encoded)
    assert value.dtype == spread.dtype == torch.float32
    features = (encoded.fused, encoded.composition_vector, encoded.xrd_vector)
    exact = task.head(torch.cat([f.float() for f in features], dim=1))
    torch.testing.assert_close(value, exact[:, :1], rtol=0, atol=1e-7)


class Spoiled(Callback):
    """Makes a weight no number after so many steps, as a division by zero would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_zero_grad(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(math.nan)


@pytest.mark.parametrize(
    ("log_every", "told"), [(2, "step 6: the loss is nan; "), (50, "step 8: the weights are")]
)
def test_a_run_whose_loss_is_no_number_stops_and_keeps_its_checkpoint(
    log_every: int, told: str, store: str, tmp_path: Path
) -> None:
    run = trainer(
        tmp_path,
        LastCheckpoint(4),
        Spoiled(4),
        max_steps=20,
        log_every_n_steps=log_every,
    )
    with pytest.raises(ValueError, match=told) as error:
        run.fit(make_task("MaskedXRD"), data(store))
    assert "lower model.optimizer.learning_rate" in str(error.value)
    assert "\n" not in str(error.value)
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 4
    assert all(v.isfinite().all() for v in last["state_dict"].values() if v.is_floating_point())


def test_the_norm_of_the_gradients_is_logged_before_they_are_clipped(
    store: str, tmp_path: Path
) -> None:
    task, seen = make_task("MaskedXRD"), {}

    class Norms(Callback):
        def on_before_optimizer_step(
            self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
        ) -> None:
            squares = [p.grad.square().sum() for p in pl_module.parameters() if p.grad is not None]
            seen[trainer.global_step + 1] = float(torch.stack(squares).sum().sqrt())

    del task.log  # the tasks of the tests log nowhere
    run = trainer(tmp_path, Norms(), gradient_clip_val=1e-3)
    run.fit(task, data(store))
    assert float(run.callback_metrics["train/gradient_norm"]) == pytest.approx(seen[4], rel=1e-5)
    assert seen[4] > 1e-3


def test_a_longer_cosine_than_the_checkpoints_is_told(
    store: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    def fit(steps: int, resume: str | None = None) -> list[str]:
        recwarn.clear()
        task = make_task("MaskedXRD")
        task.optimizer_config = type(task.optimizer_config)(warmup_steps=1)
        run = trainer(tmp_path, LastCheckpoint(1), max_steps=steps)
        run.fit(task, data(store), ckpt_path=resume, weights_only=True)
        return [str(w.message) for w in recwarn if "learning rate" in str(w.message)]

    last = str(tmp_path / "checkpoints/last.ckpt")
    assert fit(4) == []
    assert fit(4, last) == []
    (told,) = fit(8, last)
    assert "resumed at step 4 with trainer.max_steps 8: the learning rate jumps from 1e-05" in told
    assert "--model.init_from" in told


class Strike(Callback):
    """Sends the signal of a job's end in a step."""

    def __init__(self, requeue: Requeue, step: int) -> None:
        self.requeue, self.step = requeue, step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.requeue._strike(0, None)


@pytest.mark.parametrize("validates", [False, True])
def test_a_requeued_job_continues_as_if_it_had_never_been_stopped(
    validates: bool, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts, averages and validations of the step at which it stops are in its checkpoint."""

    def fit(
        folder: Path, strike: int | None, resume: str | None = None
    ) -> tuple[L.Trainer, dict[str, Any]]:
        torch.manual_seed(0)
        task = Regression(["density"], CONFIG, GRID)
        # Before the others in the recipe's list: Lightning calls it after them all the same.
        requeue = Requeue(every_n_steps=1, requeue=False)
        others = [] if strike is None else [Strike(requeue, strike)]
        run = trainer(
            folder,
            requeue,
            *others,
            EMAWeights(0.9),
            MetricsWriter(),
            LastCheckpoint(100),
            max_steps=6,
            limit_val_batches=1 if validates else 0,
            val_check_interval=3,
        )
        run.fit(task, data(store, "density"), ckpt_path=resume, weights_only=True)
        return run, torch.load(folder / "checkpoints/last.ckpt", weights_only=True)

    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    _, whole = fit(tmp_path / "whole", None)
    known: list[int] = []  # validations made when a checkpoint is written
    save = L.Trainer.save_checkpoint

    def spy(trainer: L.Trainer, path: Any, **more: Any) -> None:
        lines = tmp_path / "cut/metrics.jsonl"
        known.append(len(lines.read_text().splitlines()) if lines.exists() else 0)
        save(trainer, path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(L.Trainer, "save_checkpoint", spy)
        stopped, state = fit(tmp_path / "cut", 2)
    # A kill in the validation would leave a checkpoint that never validates.
    assert min(known) == int(validates)
    assert stopped.global_step == state["global_step"] == 3
    writer = next(v for k, v in state["callbacks"].items() if "MetricsWriter" in k)
    assert writer["samples_seen"] == 24
    assert state["averaging_state"]["n_averaged"] == 3
    _, resumed = fit(tmp_path / "cut", None, str(tmp_path / "cut/checkpoints/last.ckpt"))
    for part in ("state_dict", "current_model_state"):
        for name, value in whole[part].items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(
                    resumed[part][name], value, rtol=0, atol=0, equal_nan=True, msg=name
                )
    if validates:
        for name in ("whole", "cut"):
            lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == [3, 6], name


def test_cpu_time_goes_on_over_resumptions_or_is_unknown() -> None:
    """A checkpoint from before it was recorded must not make a run look cheap."""
    first, second, old = MetricsWriter(), MetricsWriter(), MetricsWriter()
    first.cpu_before = 100.0
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["cpu_seconds"] >= 100.0
    old.load_state_dict({"samples_seen": 8, "seconds": 2.0})
    assert old.state_dict()["cpu_seconds"] is None


def test_embeddings_of_a_validation_do_not_keep_all_ranks_rows() -> None:
    metric, n = Retrieval(pool_size=4), 64
    rows = torch.nn.functional.normalize(torch.randn(n, 8), dim=1)
    metric.update(rows, rows, identified(torch.arange(n), torch.arange(n), torch.arange(n) // 4))
    for values in metric.embeddings():
        assert values.untyped_storage().nbytes() == values.numel() * values.element_size()


def test_one_process_lists_the_checkpoints(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, source = Regression(["density"], CONFIG, GRID), data(store, "density")
    run = trainer(tmp_path, calibration.CalibrateIntervals(), LastCheckpoint(2), max_steps=2)
    asked: list[Any] = []

    def broadcast(value: Any, src: int = 0) -> Any:
        asked.append(value)
        return value

    monkeypatch.setattr(run.strategy, "broadcast", broadcast)
    run.fit(task, source)
    listed = [a for a in asked if isinstance(a, list)]
    assert [[path.name for path in paths] for paths in listed] == [["last.ckpt"]]
