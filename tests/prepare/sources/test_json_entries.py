"""Streaming a JSON list gives what parsing it at once gives."""

from __future__ import annotations

import io
import json
import math
import random

import pytest

from datamodules.prepare.sources.reading import json_entries
from datamodules.prepare.sources.reading.json_entries import (
    BrokenJson,
    iterate_entries,
    parse_entry,
)


def entries_of(text: str) -> list:
    return [parse_entry(entry) for entry in iterate_entries(io.BytesIO(text.encode()))]


def nested(source: random.Random, depth: int = 0) -> object:
    kind = source.randrange(7 if depth < 4 else 4)
    if kind == 0:
        return "".join(source.choices('a"\\{}[],: \n\u00e9\u6f22', k=source.randrange(12)))
    if kind == 1:
        return source.choice([None, True, 0, -1.5e-7, 12345])
    if kind < 4:
        return source.random()
    if kind == 4:
        return [nested(source, depth + 1) for _ in range(source.randrange(4))]
    return {f'k"{i}': nested(source, depth + 1) for i in range(source.randrange(5))}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
def test_random_entries_survive_any_chunk_size(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_entries, "CHUNK", chunk)
    source = random.Random(chunk)
    entries = [{"x": nested(source)} for _ in range(30)]
    for indent in (None, 2):
        assert entries_of(json.dumps(entries, indent=indent)) == entries
        top = {"other": [1, {"entries": [2]}], "entries": entries, "more": {"entries": [3]}}
        assert entries_of(json.dumps(top, indent=indent, ensure_ascii=False)) == entries


def test_what_is_no_object_comes_too() -> None:
    assert entries_of('[{"a": 1}, null, 5, "text", [1, 2], {}]') == [
        {"a": 1}, None, 5, "text", [1, 2], {},
    ]  # fmt: skip
    assert entries_of("[]") == entries_of('{"entries": []}') == entries_of(" [\n]\n") == []


def test_nan_literals_are_read() -> None:
    (entry,) = entries_of('[{"energy": NaN, "high": Infinity, "low": -Infinity, "text": "NaN"}]')
    assert math.isnan(entry["energy"])
    assert entry["high"] == -entry["low"] == math.inf
    assert entry["text"] == "NaN"


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "5", "hello", '{"a": 1}', '{"entries": 3}', '{"other": [1]}', "[", "[{}",
        '[{"a": 1}', '[{"a": "]', '{"entries": [{}', '{"entries": [{}]', "[{}]]", "[{}] x",
    ],
)  # fmt: skip
def test_broken_json_is_an_error(text: str) -> None:
    with pytest.raises(BrokenJson):
        entries_of(text)


def test_an_endless_entry_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_entries, "MAX_ENTRY", 1000)
    monkeypatch.setattr(json_entries, "CHUNK", 100)
    with pytest.raises(BrokenJson, match="longer"):
        entries_of('[{"a": "' + 5000 * "x")
