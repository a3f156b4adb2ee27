"""A library of known materials: its vectors in a file, exact search, filters by elements."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import batch as keys
from datamodules.formula import parse_formula
from datamodules.rendering.renderer import Renderer
from datamodules.store.store import Store
from lightning_modules.inference.evidence import AlignedModel, pad_compositions
from lightning_modules.inference.neighbours import ElementFilter, Library, index
from tests.factories import make_material, make_store
from tests.measured import models

N = 60


@pytest.fixture
def model(tmp_path: Path) -> AlignedModel:
    return AlignedModel(models.aligned(tmp_path / "aligned.ckpt"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path / "store", N, rows_per_shard=25)
    return tmp_path / "store"


def test_a_materials_own_pattern_and_composition_find_it_with_its_labels(
    store: Path, model: AlignedModel
) -> None:
    library = Library(store, model)
    rendered = Renderer(model.grid, model.peaks)(library.lines(np.array([7, 31])), augment=False)
    patterns = model.patterns(rendered[keys.XRD], rendered[keys.MEASURED])
    compositions = model.compositions(rendered[keys.ELEMENTS], rendered[keys.FRACTIONS])
    query = torch.nn.functional.normalize(patterns + compositions, dim=1)
    found = library.nearest(query, top=3)
    assert [known[0].id for known in found] == [make_material(7).id, make_material(31).id]
    first = found[0][0]
    assert (first.formula, first.similarity) == (
        make_material(7).formula,
        pytest.approx(1, abs=1e-3),
    )
    expected = make_material(7)
    assert first.labels["formation_energy"] == pytest.approx(expected.targets["formation_energy"])
    assert first.labels["density"] == pytest.approx(expected.density)
    assert first.labels["space_group"] == 221
    assert library.units["formation_energy"] == "eV/atom"
    without = next(i for i in range(N) if make_material(i).targets["band_gap"] is None)
    assert library.known([without])[0].labels["band_gap"] is None


def test_search_in_parts_finds_what_one_product_finds(
    store: Path, model: AlignedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(store, model)
    queries = model.compositions(*pad_compositions([parse_formula("NaCl"), parse_formula("Fe2O3")]))
    every, order = library.search(queries, N)
    monkeypatch.setattr(index, "_ROWS_AT_A_TIME", 7)
    similarity, rows = library.search(queries, 9)
    assert rows.tolist() == order[:, :9].tolist()
    torch.testing.assert_close(similarity, every[:, :9])
    some = np.arange(3, N, 4)
    _, chosen = library.search(queries, 5, some)
    expected = [[row for row in all_ if row in set(some)][:5] for all_ in order.tolist()]
    assert chosen.tolist() == expected


def test_elements_allowed_required_and_counted(store: Path, model: AlignedModel) -> None:
    library = Library(store, model)
    materials = [make_material(i) for i in range(N)]
    sets = [set(material.elements.tolist()) for material in materials]
    allowed = ElementFilter(allowed=tuple(sorted(sets[11])))
    rows = library.rows(allowed)
    assert rows is not None
    assert rows.tolist() == [i for i in range(N) if sets[i] <= sets[11]]
    assert 11 in rows
    required = library.rows(ElementFilter(required=(min(sets[11]),)))
    assert required is not None
    assert required.tolist() == [i for i in range(N) if min(sets[11]) in sets[i]]
    counted = library.rows(ElementFilter.of_text(number="2-3"))
    assert counted is not None
    assert counted.tolist() == [i for i in range(N) if 2 <= len(sets[i]) <= 3]
    assert library.rows(ElementFilter()) is None
    found = library.nearest(
        model.compositions(*pad_compositions([parse_formula("NaCl")])), 50, allowed
    )
    assert {known.row for known in found[0]} == set(rows.tolist())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"allowed": "Fe,Xx"}, "'Xx' is no element"),
        ({"allowed": "fe"}, "'fe' is no element"),
        ({"allowed": ","}, "names no element"),
        ({"required": "Fe;O"}, "no element"),
        ({"allowed": "Fe,O", "required": "Cu"}, "Cu is required and not allowed"),
        ({"number": "many"}, "give a number"),
        ({"number": "0"}, "from 1"),
        ({"number": "4-2"}, "from 1"),
        ({"allowed": "Fe,O", "number": "3"}, "3 elements are asked for and 2 allowed"),
        ({"required": "Fe,O,Na", "number": "2"}, "3 elements are required and at most 2"),
    ],
)
def test_nonsense_about_elements_is_told(options: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ElementFilter.of_text(**options)


def test_vectors_are_made_once_and_a_file_of_another_library_is_told(
    store: Path, model: AlignedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = model.compositions(*pad_compositions([parse_formula("NaCl")]))
    before = Library(store, model).nearest(query)
    made = list(tmp_path.glob("store.vectors-*.safetensors"))
    assert len(made) == 1
    assert "60 materials are being made" in capsys.readouterr().err
    stamp = made[0].stat().st_mtime_ns
    assert Library(store, model).nearest(query) == before
    assert (made[0].stat().st_mtime_ns, capsys.readouterr().err) == (stamp, "")
    make_store(tmp_path / "other", N, seed=1)
    with pytest.raises(ValueError, match=r"was made for another library; delete it, or"):
        Library(tmp_path / "other", model, index=made[0])
    torch.manual_seed(5)
    with torch.no_grad():
        next(model.alignment.xrd.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="another model"):
        Library(store, model, index=made[0])


@pytest.mark.parametrize("damage", ["cut", "header", "other", "empty"])
def test_a_damaged_file_of_vectors_is_told_and_ones_own_is_made_again(
    store: Path,
    model: AlignedModel,
    tmp_path: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    query = model.compositions(*pad_compositions([parse_formula("NaCl")]))
    before = Library(store, model, quiet=True).nearest(query)
    path = next(tmp_path.glob("store.vectors-*"))
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-1],
            "header": content[:20] + b"\xff" + content[21:],
            "other": b"a table, no vectors " * 40,
            "empty": b"",
        }[damage]
    )
    with pytest.raises(ValueError, match=path.name):
        Library(store, model, index=path)
    capsys.readouterr()
    assert Library(store, model).nearest(query) == before
    assert "made again" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_a_build_that_was_ended_is_continued_and_gives_the_same_file(
    store: Path, model: AlignedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.inference.neighbours.library._BATCH", 16)
    path = tmp_path / "whole.safetensors"
    Library(store, model, index=path)
    made = Library._vectors
    starts = []

    def until_the_second(self: Library, model: AlignedModel, rows: np.ndarray) -> np.ndarray:
        starts.append(int(rows[0]))
        if rows[0] == 32:
            raise KeyboardInterrupt
        return made(self, model, rows)

    monkeypatch.setattr(Library, "_vectors", until_the_second)
    again = tmp_path / "again.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Library(store, model, index=again)
    assert not again.exists()
    unfinished = tmp_path / "again.safetensors.unfinished"
    # What a loss of power may leave at its end.
    with unfinished.open("ab") as file:
        file.write(bytes(23))
    monkeypatch.setattr(Library, "_vectors", made)
    starts.clear()
    monkeypatch.setattr(
        Library,
        "_vectors",
        lambda self, model, rows: (starts.append(int(rows[0])), made(self, model, rows))[1],
    )
    Library(store, model, index=again)
    assert starts == [0, 32, 48]  # the first tells the width
    assert again.read_bytes() == path.read_bytes()
    assert not unfinished.exists()


def test_libraries_of_several_stores_have_files_of_their_own(
    store: Path, model: AlignedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        make_store(tmp_path / f"more{seed}", 5, seed=seed)
    sets = [[store], [store, tmp_path / "more1"], [store, tmp_path / "more2"]]
    query = model.compositions(*pad_compositions([parse_formula("NaCl")]))
    for stores in sets:
        library = Library(stores, model)
        before = len(list(tmp_path.glob("store.vectors-*")))
        assert before == len(stores) - 1 + (stores == sets[2])  # none is made before it is needed
        library.nearest(query)
    assert len(list(tmp_path.glob("store.vectors-*"))) == 3
    capsys.readouterr()
    for stores in sets:
        assert len(Library(stores, model).nearest(query, 100)[0]) == N + 5 * (len(stores) - 1)
    assert capsys.readouterr().err == ""


def test_a_folder_of_cifs_and_a_store_without_lines_are_refused(
    store: Path, tmp_path: Path, model: AlignedModel
) -> None:
    cifs = tmp_path / "references"
    cifs.mkdir()
    (cifs / "a.cif").write_text("data_a\n")
    with pytest.raises(ValueError, match="xxact prepare cif"):
        Library(cifs)
    make_store(tmp_path / "measured", 4, layout="profile", grid=model.grid)
    with pytest.raises(ValueError, match="no diffraction lines"):
        Library(tmp_path / "measured")
    with pytest.raises(ValueError, match="made without an aligned model"):
        Library(store).nearest(torch.zeros(1, 8))
    assert len(Library([store])) == len(Store(store))
