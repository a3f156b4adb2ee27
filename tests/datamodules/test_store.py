from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.batch import (
    ELEMENTS,
    FRACTIONS,
    LINE_INTENSITY,
    LINE_OFFSETS,
    LINE_Q,
    PROFILE,
    TARGETS,
)
from datamodules.grid import Grid
from datamodules.store.collection import Collection
from datamodules.store.gathering import Gatherer
from datamodules.store.store import (
    Manifest,
    Material,
    Store,
    StoreError,
    formula_key,
    map_shard,
    system_key,
    write_shard,
)
from tests.factories import UNITS, make_material, make_store

N = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"), N, rows_per_shard=7)


def assert_same(a: Material, b: Material) -> None:
    assert (a.id, a.formula) == (b.id, b.formula)
    assert a.structure == pytest.approx(b.structure, rel=1e-6)
    for name in ("elements", "fractions", "q", "intensity"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert a.density == pytest.approx(b.density)
    assert a.volume_per_atom == pytest.approx(b.volume_per_atom)
    for name in UNITS:
        expected = b.targets[name]
        assert a.targets[name] == (None if expected is None else pytest.approx(expected, rel=1e-6))


def gather(
    store: Store, rows: np.ndarray, targets: Sequence[str] = (), max_elements: int | None = None
) -> dict[str, np.ndarray]:
    """A batch of one store."""
    slots = max_elements or store.manifest.max_elements
    return Gatherer([store], list(targets), slots).gather(rows)


def test_a_store_gives_back_what_was_written(store: Store) -> None:
    assert len(store) == N
    for row in range(N):
        assert_same(store.material(row), make_material(row))


def test_a_missing_label_is_null_in_the_file_and_nan_in_the_batch(store: Store) -> None:
    missing = [make_material(i).targets["band_gap"] is None for i in range(N)]
    assert 0 < sum(missing) < N
    nulls = [
        value is None
        for i in range(len(store.manifest.shards))
        for value in store.shard(i).column("band_gap").to_pylist()
    ]
    assert nulls == missing
    assert np.isnan(store.column("band_gap")).tolist() == missing
    batch = gather(store, np.arange(N), ["band_gap"])
    assert np.isnan(batch[TARGETS][:, 0]).tolist() == missing


def test_gather_equals_reading_row_by_row(store: Store) -> None:
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(N), 2))
    targets = ["density", "formation_energy", "unknown", "band_gap", "volume_per_atom"]
    batch = gather(store, rows, targets, max_elements=6)
    offsets = batch[LINE_OFFSETS]
    assert offsets[0] == 0
    assert offsets[-1] == len(batch[LINE_Q]) == len(batch[LINE_INTENSITY])
    for b, row in enumerate(rows):
        expected = make_material(int(row))
        n = len(expected.elements)
        assert batch[ELEMENTS][b].tolist() == [*expected.elements.tolist(), *[0] * (6 - n)]
        assert np.array_equal(batch[FRACTIONS][b, :n], expected.fractions)
        assert not batch[FRACTIONS][b, n:].any()
        lines = slice(offsets[b], offsets[b + 1])
        assert np.array_equal(batch[LINE_Q][lines], expected.q)
        assert np.array_equal(batch[LINE_INTENSITY][lines], expected.intensity)
        labels = [
            expected.density,
            expected.targets["formation_energy"],
            None,
            expected.targets["band_gap"],
            expected.volume_per_atom,
        ]
        wanted = np.array([np.nan if v is None else v for v in labels], np.float32)
        assert np.array_equal(batch[TARGETS][b], wanted, equal_nan=True)


@pytest.mark.parametrize("rows", [[-1], [N], [0, N + 5]])
def test_gather_refuses_rows_outside_the_store(store: Store, rows: list[int]) -> None:
    with pytest.raises(IndexError):
        gather(store, np.array(rows))


def test_an_empty_batch_is_allowed(store: Store) -> None:
    batch = gather(store, np.empty(0, np.int64), ["band_gap"])
    assert batch[ELEMENTS].shape[0] == 0
    assert batch[LINE_OFFSETS].tolist() == [0]


def test_dense_profiles_are_gathered_to_the_bit(tmp_path: Path) -> None:
    grid = Grid(10, 60, 0.1)
    dense = make_store(tmp_path, 20, layout="profile", grid=grid, rows_per_shard=6)
    rows = np.array([19, 0, 7, 7])
    got = gather(dense, rows)[PROFILE]
    assert got.shape == (4, 500)
    for b, row in enumerate(rows):
        assert np.array_equal(got[b], dense.material(int(row)).profile, equal_nan=True)
    assert np.isnan(got[:, :10]).all()


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    rows = [make_material(i) for i in range(30)]
    first = write_shard(tmp_path / "a.arrow", rows, list(UNITS), "peaks")
    second = write_shard(tmp_path / "b.arrow", rows, list(UNITS), "peaks")
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()
    assert first.checksum == second.checksum
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_any_arrow_tool_opens_a_shard(store: Store) -> None:
    path = store.folder / store.manifest.shards[0].file
    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.num_rows == 7
    types = {name: str(table.schema.field(name).type) for name in table.schema.names}
    assert types["elements"] == "list<item: uint8>"
    assert types["q"] == "list<item: float>"
    assert types["formula_key"] == "uint64"
    assert types["space_group"] == types["bravais_class"] == types["n_sites"] == "int16"
    assert types["reciprocal_metric_23"] == "float"
    assert types["band_gap"] == "float"


def test_columns_are_views_of_the_mapped_file(store: Store) -> None:
    before = pa.total_allocated_bytes()
    batch = map_shard(store.folder / store.manifest.shards[0].file)
    batch.column("q").values.to_numpy(zero_copy_only=True)
    assert pa.total_allocated_bytes() - before < 4096


def test_stores_pickle_as_their_path(store: Store) -> None:
    gather(store, np.array([1]))
    data = pickle.dumps(store)
    assert len(data) < 300
    assert_same(pickle.loads(data).material(3), store.material(3))


def test_find_by_id(store: Store) -> None:
    assert store.find("synthetic-0-33") == 33
    with pytest.raises(StoreError, match="no material 'nobody'"):
        store.find("nobody")


def test_keys_do_not_depend_on_order_or_machine() -> None:
    assert system_key(np.array([8, 26])) == system_key(np.array([26, 8, 8]))
    assert system_key(np.array([8, 26])) != system_key(np.array([8, 27]))
    assert formula_key("Fe2O3") == 9827744533406405670
    assert formula_key("Fe2O3") != formula_key("Fe3O4")


def test_reading_a_store_needs_no_torch() -> None:
    code = "import sys, datamodules.store, datamodules.batch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_changed_store_has_another_fingerprint(tmp_path: Path) -> None:
    a = make_store(tmp_path / "a", 20)
    b = make_store(tmp_path / "b", 20)
    c = make_store(tmp_path / "c", 20, seed=1)
    d = make_store(tmp_path / "d", 21)
    assert a.fingerprint == b.fingerprint
    assert len({store.fingerprint for store in (a, c, d)}) == 3


def test_verify_finds_a_flipped_bit(tmp_path: Path) -> None:
    store = make_store(tmp_path, 20, rows_per_shard=8)
    store.verify()
    path = tmp_path / store.manifest.shards[1].file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"shard-00001.arrow: checksum"):
        Store(tmp_path).verify()


def test_damaged_stores_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(reason: str) -> None:
        with pytest.raises(StoreError, match=reason) as caught:
            Store(tmp_path / "s")
        assert "\n" not in str(caught.value)

    refused("no such store")
    (tmp_path / "s").mkdir()
    refused("not a finished store")
    store = make_store(tmp_path / "s", 20, rows_per_shard=8)
    path = tmp_path / "s" / store.manifest.shards[2].file
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    refused("shard-00002.arrow: .*truncated")
    path.write_bytes(data[:-6] + b"\0" * 6)
    refused("no Arrow footer")
    path.unlink()
    refused("missing")
    path.write_bytes(data)
    manifest = tmp_path / "s" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"format_version": 2', '"format_version": 7'))
    refused("format version 7, this program reads 1 and 2")
    manifest.write_text(text[:50])
    refused("not valid JSON")
    manifest.write_text('{"format_version": 2}')
    refused("damaged manifest")
    manifest.write_text(text)
    store.manifest.shards.clear()
    store.manifest.save(tmp_path / "s")
    refused("the store is empty")


def test_a_manifest_holds_no_nan(tmp_path: Path) -> None:
    store = make_store(tmp_path, 10, missing=1.1)
    gap = next(t for t in store.manifest.targets if t.name == "band_gap")
    assert (gap.count, gap.mean, gap.std) == (0, None, None)
    json.loads((tmp_path / "manifest.json").read_text(), parse_constant=lambda x: 1 / 0)
    store.manifest.options["bad"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.manifest.save(tmp_path)
    assert Manifest.load(tmp_path).options == {"n": 10, "seed": 0}


def test_target_statistics_are_those_of_the_column(store: Store) -> None:
    for target in store.manifest.targets:
        values = store.column(target.name).astype(float)
        values = values[np.isfinite(values)]
        assert target.count == len(values)
        assert target.mean == pytest.approx(values.mean())
        assert target.std == pytest.approx(values.std())
        assert (target.min, target.max) == (values.min(), values.max())


def test_several_stores_are_one_with_targets_merged_by_name(tmp_path: Path) -> None:
    a = make_store(tmp_path / "a", 30, rows_per_shard=8)
    b = make_store(tmp_path / "b", 20, seed=1, units={"band_gap": "eV", "hull": "eV/atom"})
    both = Collection([a.folder, b.folder])
    assert len(both) == 50
    assert both.units["hull"] == "eV/atom"
    rows = np.array([45, 3, 30, 29])
    names = ["formation_energy", "band_gap"]
    got = Gatherer(both.stores, names, 6).gather(rows)
    for i, (store, row) in enumerate([(b, 15), (a, 3), (b, 0), (a, 29)]):
        alone = gather(store, np.array([row]), names, 6)
        assert np.array_equal(got[ELEMENTS][i], alone[ELEMENTS][0])
        assert np.array_equal(got[TARGETS][i], alone[TARGETS][0], equal_nan=True)
        lines = slice(got[LINE_OFFSETS][i], got[LINE_OFFSETS][i + 1])
        assert np.array_equal(got[LINE_Q][lines], alone[LINE_Q])
    column = both.column("formation_energy")
    assert np.isnan(column[30:]).all()
    assert np.array_equal(column[:30], a.column("formation_energy"))


def test_targets_with_clashing_units_are_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "a", 5)
    make_store(tmp_path / "b", 5, seed=1, units={"band_gap": "J"})
    with pytest.raises(StoreError, match=r"target band_gap: .*a gives it in eV, .*b in J"):
        Collection([tmp_path / "a", tmp_path / "b"])


def test_a_store_named_twice_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "a", 5)
    make_store(tmp_path / "copy", 5)
    with pytest.raises(StoreError, match="the same store as"):
        Collection([tmp_path / "a", tmp_path / "copy"])
    with pytest.raises(StoreError, match="no store given"):
        Collection([])


def test_a_dense_store_on_another_grid_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path, 5, layout="profile", grid=Grid(10, 60, 0.1))
    Collection([tmp_path]).check_grid(Grid(10, 60, 0.1))
    with pytest.raises(StoreError, match=r"10° to 60° step 0.1° at 1.54184 Å"):
        Collection([tmp_path]).check_grid(Grid())


def test_structural_columns_are_targets_and_null_where_unknown(tmp_path: Path) -> None:
    rows = [make_material(i) for i in range(4)]
    rows[2].symmetry = None
    store = make_store(tmp_path / "s", materials=rows)
    names = ["space_group", "n_sites", "reciprocal_metric_11", "density"]
    got = Gatherer([store], names, 6).gather(np.array([2, 0]))[TARGETS]
    assert np.isnan(got[0]).tolist() == [True, True, True, False]
    assert got[1, :2].tolist() == [221, 1]
    assert got[1, 2] == np.float32(rows[0].symmetry.reciprocal_metric[0])
    assert store.material(2).symmetry is None
    assert np.isnan(store.column("bravais_class")).tolist() == [False, False, True, False]
    assert set(names) <= set(Collection([tmp_path / "s"]).units)


def test_a_store_of_format_1_is_read_with_its_missing_columns_null(tmp_path: Path) -> None:
    """The stored one was written by the last version of format 1."""
    old = Store(Path(__file__).parents[1] / "stores" / "format_1")
    old.verify()
    assert old.manifest.format_version == 1
    assert old.column("id").tolist() == ["m-0-0", "m-0-1", "m-0-2", "m-nacl"]
    assert np.isnan(old.column("reciprocal_metric_12")).all()
    salt = old.material(old.find("m-nacl"))
    assert (salt.formula, salt.symmetry, len(salt.q)) == ("NaCl", None, 10)
    new = make_store(tmp_path / "new", 3, units={"band_gap": "eV"})
    both = Collection([old.folder, new.folder])
    names = ["band_gap", "bravais_class", "density"]
    got = Gatherer(both.stores, names, 6).gather(np.array([3, 4]))[TARGETS]
    assert got[0, 0] == 8.5
    assert np.isnan(got[0, 1])
    assert got[1, 1] == 12
    assert np.isfinite(got[:, 2]).all()
    assert np.isnan(both.column("bravais_class")).tolist() == [True] * 4 + [False] * 3
