"""Damaged and strangers' checkpoints: one line, no code run, no memory taken for nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import checkpoints
from lightning_modules.checkpoints.export import export

STORED = Path(__file__).parents[2] / "checkpoints/format_1/Regression.ckpt"


@pytest.fixture
def content() -> dict[str, Any]:
    return torch.load(STORED, weights_only=True)


def refusal(path: Path, content: dict[str, Any]) -> str:
    torch.save(content, path)
    with pytest.raises(ValueError, match="ckpt: ") as raised:
        checkpoints.load_task(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_no_module_that_a_checkpoint_names_is_imported(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strangers_module.py").write_text("raise SystemExit('its code has run')")
    monkeypatch.syspath_prepend(tmp_path)
    content["xxact"]["task"] = "strangers_module.Task"
    message = refusal(tmp_path / "a.ckpt", content)
    assert "none of our tasks" in message
    assert "strangers_module" not in sys.modules


def test_a_missing_version_is_told(content: dict[str, Any], tmp_path: Path) -> None:
    del content["xxact"]["format_version"]
    assert "checkpoint format None" in refusal(tmp_path / "a.ckpt", content)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"width": 60_000, "heads": 1}, "have shape"),
        ({"xrd_layers": 60_000}, "xrd_layers is 60000, but there are"),
        ({"width": "wide"}, "no model can be built from it"),
        ({"depth": 3}, "unexpected keyword argument 'depth'"),
        ({"width": torch.zeros(2)}, "holds a Tensor"),
    ],
)
def test_a_model_that_its_weights_do_not_fit_is_refused_before_it_is_built(
    change: dict[str, Any], expected: str, content: dict[str, Any], tmp_path: Path
) -> None:
    content["xxact"]["arguments"]["backbone"] |= change
    assert expected in refusal(tmp_path / "a.ckpt", content)


def test_weights_cannot_claim_more_than_the_file_holds(
    content: dict[str, Any], tmp_path: Path
) -> None:
    name = next(iter(content["state_dict"]))
    # Of one number, 4 GB.
    content["state_dict"][name] = torch.zeros(1).expand(10**9)
    assert "more than the file holds" in refusal(tmp_path / "a.ckpt", content)


def test_every_flipped_bit_is_noticed(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    checkpoints.write(path, content)
    assert torch.load(path, weights_only=True)["xxact"] == checkpoints.read(path)["xxact"]
    data = bytearray(path.read_bytes())
    last = range(len(data) - 60, len(data))
    for position in (*range(0, len(data), len(data) // 50), *last):
        data[position] ^= 16
        path.write_bytes(data)
        data[position] ^= 16
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            checkpoints.read(path)


def test_flipped_bits_of_the_content_are_noticed_in_what_torch_alone_wrote(tmp_path: Path) -> None:
    path, data = tmp_path / "a.ckpt", bytearray(STORED.read_bytes())
    weights = torch.load(STORED, weights_only=True)["state_dict"]
    noticed = 0
    for position in range(100, len(data), len(data) // 20):
        data[position] ^= 16
        path.write_bytes(data)
        data[position] ^= 16
        try:
            found = checkpoints.read(path)["state_dict"]
        except ValueError:
            noticed += 1
            continue
        # Between the parts lie bytes that mean nothing.
        for name, value in weights.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.nan_to_num(), found[name].nan_to_num())
    assert noticed > 5


def test_an_exports_weights_have_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    export(STORED, path)
    checkpoints.build_backbone(path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="its weights were changed or damaged"):
        checkpoints.build_backbone(path)


def test_an_exports_header_says_what_it_must(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    export(STORED, path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["xxact"] = "{}"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(ValueError, match="format_version is None, this version has"):
        checkpoints.build_backbone(path)
