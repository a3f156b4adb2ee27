"""Crystal structures: CIF files, tables with a column of CIF, Alexandria's JSON, each damaged."""

import bz2
import gzip
import json
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.slices import check as check_entry
from datamodules.prepare.slices import material
from datamodules.prepare.sources.alexandria import AlexandriaSource
from datamodules.prepare.sources.cif_folder import CifFolderSource
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.source import Progress, Source, SourceError, Target
from tests.fuzz.mutation import NUMBERS, WORDS, damage
from tests.prepare.examples import (
    ROCK_SALT,
    alexandria_entry,
    cif_text,
    csv_rows,
    random_structure,
    written_cif,
)

_SUFFIXES = (".cif", ".csv", ".json", ".cif.gz", ".csv.gz", ".json.bz2")
_TYPES = ("OH-", "Wat", "57Fe", "Va", "Xx", "H2O", "D", "?", ".", "W1", "Na/K", "CO", "fe3+")
_GROUPS = (
    "F d -3 m", "P 21/n", "R -3 m", "I 2/a", "P b n m", "F d -3 m :1", "P 1", "nothing", "H 3 2",
    "P 6/m m m", "-F 4vw 2vw 3", "P 21/n m a", "R -3 m :R", "1", "?",
)  # fmt: skip
_BRUCITE = [3.142, 3.142, 4.766, 90, 90, 120]


@cache
def _cifs() -> tuple[str, ...]:
    """Sound CIFs of several kinds."""
    return (
        cif_text(ROCK_SALT),
        cif_text(random_structure(1, 4)),
        written_cif([5.4309], "Si1 Si 0 0 0", "F d -3 m :1", "Si", 8),
        written_cif(
            _BRUCITE, "Mg1 0 0 0\nOH 0.333 0.667 0.2203", "P -3 m 1", "H2 Mg O2", 1,
            "label fract_x fract_y fract_z",
        ),
        written_cif(
            [4.4], "M1 Ti 0 0 0 0.6 0\nM2 Nb 0 0 0 0.4 .\nN1 N 0.5 0.5 0.5 1.000(2) 1",
            "x,y,z\nx,y+1/2,z+1/2\nx+1/2,y,z+1/2\nx+1/2,y+1/2,z", "Ti0.6 Nb0.4 N H",
            columns="label type_symbol fract_x fract_y fract_z occupancy attached_hydrogens",
        ),
    )  # fmt: skip


def _text(text: str, random_: random.Random) -> str:
    """Damage a text where its meaning is: a number, a name, a line."""
    for _ in range(random_.randrange(1, 4)):
        lines = text.split("\n")
        at = random_.randrange(len(lines))
        how = random_.randrange(9)
        if how == 0:
            del lines[at]
        elif how == 1:
            lines.insert(at, lines[random_.randrange(len(lines))])
        elif how == 2:
            lines.insert(at, random_.choice(("loop_", "data_y", ";", "_cell_wave_vector_x 1", "'")))
        elif how == 3:
            lines[at] = lines[at] * random_.choice((2, 1000))
        elif how == 4:
            other = random_.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        text = "\n".join(lines)
        if how >= 5:
            pattern, words = {
                5: (r"-?\d+\.?\d*", NUMBERS),
                6: (r"(?<=[\s'\"])[A-Z][a-z]?\d*(?=[\s'\"])", _TYPES + WORDS),
                7: (r"'[^'\n]+'", tuple(f"'{name}'" for name in _GROUPS) + WORDS),
                8: (r"[\w.+-]+", NUMBERS + WORDS + _TYPES),
            }[how]
            places = list(re.finditer(pattern, text))
            if places:
                place = random_.choice(places)
                text = text[: place.start()] + random_.choice(words) + text[place.end() :]
    return text


def _table(cif: str, random_: random.Random) -> bytes:
    rows = csv_rows(3)
    rows[1][2] = cif
    texts = [
        ",".join('"' + str(field).replace('"', '""') + '"' for field in row)
        for row in [["material_id", "band_gap", "cif", "formula"], *([*r, "NaCl"] for r in rows)]
    ]
    if random_.random() < 0.3:
        at = random_.randrange(len(texts))
        texts[at] = random_.choice((texts[at][:-1], texts[at].replace('","', ",", 1), "", '"'))
    return "\r\n".join(texts).encode("utf-8", "surrogatepass")


def _entries(random_: random.Random) -> bytes:
    """Entries of which one has something in a place where it does not belong."""
    entries = [alexandria_entry(f"agm{i}", random_structure(i, 3), spg=1) for i in range(3)]
    entries[0]["composition"] = random_structure(0, 3).composition.as_dict()
    node: object = entries[random_.randrange(3)]
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))  # type: ignore[arg-type, call-overload]
        key = random_.choice(keys)
        child = node[key]  # type: ignore[index]
        if not isinstance(child, dict | list) or not child or random_.random() < 0.15:
            break
        node = child
    deep: object = 1
    for _ in range(random_.choice((3, 900))):
        deep = [deep]
    strange = (
        None,
        1e400,
        float("nan"),
        -1,
        0,
        10**400,
        "x",
        "\ud800",
        "",
        [],
        {},
        True,
        deep,
        [[]],
    )
    if random_.random() < 0.2:
        del node[key]  # type: ignore[attr-defined]
    else:
        node[key] = random_.choice(strange)  # type: ignore[index]
    return json.dumps(entries if random_.random() < 0.5 else {"entries": entries}).encode()


def _bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that ask for much."""
    blanks = b" " * (64 << 20)
    yield "blanks.json.bz2", bz2.compress(blanks + b"[{}]")
    yield "between.json.bz2", bz2.compress(b"[" + blanks + b"{}]")
    yield "after.json.bz2", bz2.compress(b"[{}]" + blanks)
    yield "commas.json.bz2", bz2.compress(b"[" + b"," * (64 << 20) + b"{}]")
    yield "deep.json", b"[" * 3_000_000
    yield "deep2.json", b'[{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]"
    yield "field.csv.gz", gzip.compress(b'id,cif,band_gap\na,"' + blanks)
    yield "lines.csv.gz", gzip.compress(b"id,cif,band_gap\n" + b"\n" * (8 << 20))
    yield "columns.csv.gz", gzip.compress(b"id,cif,band_gap\n" + b"," * (64 << 20))
    yield "large.cif.gz", gzip.compress(b"data_a\n" + b"# " + blanks)
    yield "value.cif.gz", gzip.compress(b"data_a\n_b\n;\n" + blanks[: 30 << 20] + b"\n;\n")
    yield "loop.cif.gz", gzip.compress(b"data_a\nloop_\n_b\n" + b"1 " * (12 << 20))
    sites = "\n".join(f"H{i} H {i / 4999:.4f} {i / 777:.3f} {i / 55:.2f}" for i in range(4999))
    yield "sites.cif", written_cif([60.0], sites, "F m -3 m").encode()
    yield "sites2.cif", written_cif([45.0], sites, "x,y,z", "H").encode()


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Damaged files of structures, the same for a seed; bombs among those of seed 0."""
    random_ = random.Random(seed)
    bombs = list(_bombs()) if seed == 0 else []
    for number in range(n):
        if number < len(bombs):
            yield bombs[number]
            continue
        suffix = _SUFFIXES[number % len(_SUFFIXES)]
        if ".json" in suffix:
            content = _entries(random_)
        else:
            cif = random_.choice(_cifs())
            cif = _text(cif, random_) if random_.random() < 0.8 else cif
            content = cif.encode("utf-8", "surrogatepass")
            if ".csv" in suffix:
                content = _table(cif, random_)
        if random_.random() < 0.25:
            content = damage(content, random_)
        if suffix.endswith(".gz"):
            content = gzip.compress(content, mtime=0)
        elif suffix.endswith(".bz2"):
            content = bz2.compress(content)
        if suffix.count(".") > 1 and random_.random() < 0.1:
            content = damage(content, random_)
        yield f"{number:04d}{suffix}", content


def _source(path: Path) -> Source:
    if ".cif" in path.name:
        return CifFolderSource(path.parent)
    if ".json" in path.name:
        return AlexandriaSource((path,))
    return CsvSource((path,), labels=(Target("band_gap", "band_gap", "eV"),))


def check(path: Path) -> str:
    """Reads every entry of a file as preparation does.

    Returns:
        "refused": the file as a whole; "rejected": an entry of it; "read": all of it.
    """
    source = _source(path)
    rejected = 0
    try:
        [part] = source.parts()
        for position, record in enumerate(source.records(part, Progress())):
            if isinstance(source, CifFolderSource) and record != path.name:
                continue
            try:
                entry = source.entry(record, position)
                check_entry(entry)
                material(entry)
            except EntryError:
                rejected += 1
    except SourceError:
        return "refused"
    return "rejected" if rejected else "read"
