"""What is wrong with a recipe is told in one line that names the file and the key."""

from pathlib import Path

import pytest

from lightning_modules.__main__ import main
from tests.commands import ROOT, SMALL, error_of
from tests.factories import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, 96)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"model: {init_args: {backbone: false}}", "backbone: needs keys, not a value"),
        (b"model: {init_args: {backbone: null}}", "backbone: needs keys, not a value"),
        (b"model: {init_args: {backbone: 5, decoder_width: 8}}", "model.init_args.backbone is 5"),
        (b"model: {init_args: {optimizer: {warmup_steps: null}}}", "warmup_steps is null: needs"),
        (b"trainer: 5", "trainer is 5: needs keys"),
        (b"# caf\xe9\nrun: x", "line 1 is not text in UTF-8"),
        (b'model: {init_args: {mask_ratio: "${.mask_ratio}"}}', "mask_ratio: Recursive"),
        (b'model: {init_args: {mask_ratio: "${.nope}"}}', "mask_ratio: Interpolation key"),
        (b'model: {init_args: {mask_ratio: "${"}}', "mask_ratio: no viable alternative"),
        (b"seed_everything: 1000000000000", "seed_everything is 1000000000000: must lie between"),
        (b"data: {split: {seed: 1000000000000}}", "data.split.seed is 1000000000000: must lie"),
        (b"data: {global_batch_size: many}", "data.global_batch_size"),
        (b"model: {init_args: {backbone: {xrd_layers: 10000000000}}}", "must lie between 1 and"),
        (b"nokey: 1", "does not accept option 'nokey'"),
        (b"a: &a [*a]", "*a within something that has a name"),
        (b"[" * 3000, "more than 50 levels deep"),
        (b"[1, 2]", "is no recipe: it gives [1, 2] in place of keys"),
        (b"run: 2020-13-41", "not a readable YAML file (month must be in 1..12)"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_it_is_told_with_file_and_key(
    text: bytes, expected: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_bytes(text)
    command = [
        "fit",
        f"--config={ROOT / 'configs/pretrain_mxm.yaml'}",
        f"--config={overlay}",
        f"--data.stores=[{store}]",
        f"--run={tmp_path / 'run'}",
        *(flag for flag in SMALL if not flag.startswith(("--model", "--data.glob"))),
    ]
    message = error_of(capsys, lambda: main(command))
    assert expected in message
    # Values that only the constructor can judge are told with the key alone.
    if "must lie between 1 and" not in expected:
        assert message.startswith(f"xxact: error: {overlay}: "), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("configs/pretrain_both.yaml", "configs/pretrain_masked_contrastive.yaml"),
        ("configs/modality/both.yaml", "configs/modality/fused_only.yaml"),
    ],
)
def test_an_old_name_of_a_recipe_leads_to_the_new_one(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (ROOT / new).is_file()
    for path in (old, str(ROOT / old)):
        message = error_of(capsys, lambda path=path: main(["fit", f"--config={path}"]))
        assert f"{path}: cannot be read" in message
        assert message.endswith(f"it is called {new} now")
