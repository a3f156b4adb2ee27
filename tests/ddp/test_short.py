"""Two processes in a minute's time; the long tests are in `test_long.py`."""

from pathlib import Path

from tests.ddp.launch import GLOBAL_BATCH, global_batches, read, xxact
from tests.factories import make_store


def test_two_processes_share_each_global_batch_and_validate_each_row_once(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", 100, rows_per_shard=23)
    result = xxact(
        "fit",
        store.folder,
        tmp_path / "run",
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=6",
        processes=2,
        record=tmp_path / "two",
    )
    assert result.status == 0, result.output
    batches = global_batches(tmp_path / "two")
    assert [epoch for epoch, _ in batches] == [0] * 6
    assert {len(rows) for _, rows in batches} == {GLOBAL_BATCH}
    seen = [row for _, rows in batches for row in rows]
    assert len(set(seen)) == len(seen)
    ranks = read(tmp_path / "two", "validation")
    assert len(ranks) == 2
    validated = sorted(row for lines in ranks for line in lines for row in line["index"])
    assert validated
    assert len(set(validated)) == len(validated)
    assert not set(validated) & set(seen)
