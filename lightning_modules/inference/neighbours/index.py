"""The vectors of a library in one file: written part by part, mapped into memory, searched exactly.

The file is safetensors (one tensor `vectors`, float16, and what it was made from in its header), so
that any reader of that format opens it. Its header is known before its rows are: a build that ends
early leaves a file of whole rows, from which the next one goes on.

Shapes: N rows of the library, W width of the vectors, Q queries, K answers a query.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.io.arguments import printable

SUFFIX = ".safetensors"
#: What the file is, in its header.
_KIND, _FORMAT = "xxact_index", "1"
_LENGTH_BYTES = 8
#: No header of ours is as long: it has the digests of a few stores.
_LONGEST_HEADER = 1 << 20
_ROWS_AT_A_TIME = 65536
#: Unit vectors rounded to float16 are as long as this, give or take.
_SLACK = 0.02


class IndexMismatchError(ValueError):
    """A file of vectors that belongs to another library or another model."""


def _header(made_from: Mapping[str, str], n_rows: int, width: int) -> bytes:
    described = {
        "__metadata__": {"kind": _KIND, "format": _FORMAT, **made_from},
        "vectors": {
            "dtype": "F16",
            "shape": [n_rows, width],
            "data_offsets": [0, 2 * n_rows * width],
        },
    }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def build_index(
    path: Path,
    made_from: Mapping[str, str],
    n_rows: int,
    width: int,
    rows_from: Callable[[int], Iterable[np.ndarray]],
) -> None:
    """Writes a file of vectors; one that an earlier build has left unfinished is continued.

    Args:
        path: The file; its folder is made where it does not exist.
        made_from: What the vectors depend on: `VectorIndex` compares it.
        n_rows: N.
        width: W.
        rows_from: Gives the unit vectors from a row on, part by part, shape (any, W) each.

    Raises:
        OSError: if it cannot be written; `filename` is the file.
    """
    header = _header(made_from, n_rows, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    done = _rows_in(unfinished, header, width)
    try:
        with open(unfinished, "r+b" if done else "wb") as file:
            if not done:
                file.write(header)
            file.truncate(len(header) + 2 * width * done)
            file.seek(0, os.SEEK_END)
            for part in rows_from(done):
                file.write(np.ascontiguousarray(part, np.float16).tobytes())
                file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        # Another process that made the same vectors has ended first.
        if isinstance(error, FileNotFoundError) and path.exists():
            return
        raise type(error)(error.errno, os.strerror(error.errno or 0), str(path)) from error


def _rows_in(unfinished: Path, header: bytes, width: int) -> int:
    """Whole rows that an earlier build of the same vectors has left; 0 if they cannot be used."""
    try:
        with open(unfinished, "rb") as file:
            if file.read(len(header)) != header:
                return 0
            rows = (unfinished.stat().st_size - len(header)) // (2 * width)
    except OSError:
        return 0
    if not rows:
        return 0
    vectors = np.memmap(unfinished, np.float16, "r", len(header), (rows, width))
    for start in range(0, rows, _ROWS_AT_A_TIME):
        lengths = np.linalg.norm(
            vectors[start : start + _ROWS_AT_A_TIME].astype(np.float32), axis=1
        )
        # A loss of power leaves zeros. Written so that NaN is wrong, too.
        wrong = ~(np.abs(lengths - 1.0) < _SLACK)
        if wrong.any():
            return start + int(wrong.argmax())
    return rows


class VectorIndex:
    """A file of vectors, mapped into memory.

    Args:
        path: The file.
        made_from: What its vectors must have been made from.
        n_rows: N.
        width: W.

    Raises:
        IndexMismatchError: if it was made from something else, naming what.
        ValueError: if it is no such file, or is damaged.
    """

    def __init__(self, path: Path, made_from: Mapping[str, str], n_rows: int, width: int) -> None:
        self.path = path
        header = _header(made_from, n_rows, width)
        found, begin = _read_header(path)
        wanted = {"kind": _KIND, "format": _FORMAT, **made_from}
        for name, value in wanted.items():
            if found.get(name) != value:
                raise IndexMismatchError(
                    f"{path}: was made for another {'version' if name == 'format' else name}"
                )
        with open(path, "rb") as file:
            if file.read(len(header)) != header:
                raise ValueError(f"{path}: its header is damaged; delete it, and it is made again")
        if path.stat().st_size != begin + 2 * n_rows * width:
            raise ValueError(f"{path}: is cut short or damaged; delete it, and it is made again")
        self.vectors = np.memmap(path, np.float16, "r", begin, (n_rows, width))

    def search(
        self, queries_QW: Tensor, top: int, rows: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """The most similar rows, found by comparing all of them.

        Args:
            queries_QW: Vectors, float32, on any device; rows are compared there.
            top: K; fewer where there are fewer rows.
            rows: Row numbers to search among, ascending, int64; None for all.

        Returns:
            Similarities (products of the vectors), (Q, K) float32, descending, and row numbers,
            (Q, K) int64, both on the CPU.

        Raises:
            ValueError: if the vectors are of another width, or the file holds what is no number.
        """
        if queries_QW.ndim != 2 or queries_QW.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"vectors of shape {tuple(queries_QW.shape)}; the library's have "
                f"{self.vectors.shape[1]} numbers"
            )
        device = queries_QW.device
        best = torch.empty(len(queries_QW), 0, device=device)
        where = torch.empty(len(queries_QW), 0, dtype=torch.int64, device=device)
        total = len(self.vectors) if rows is None else len(rows)
        for start in range(0, total, _ROWS_AT_A_TIME):
            stop = min(start + _ROWS_AT_A_TIME, total)
            chosen = slice(start, stop) if rows is None else rows[start:stop]
            numbers = np.arange(start, stop) if rows is None else rows[start:stop]
            part = torch.from_numpy(self.vectors[chosen].astype(np.float32)).to(device)
            similarity = queries_QW @ part.T
            if not similarity.isfinite().all():
                raise ValueError(f"{self.path}: is damaged; delete it, and it is made again")
            found, local = similarity.topk(min(top, stop - start), dim=1)
            best = torch.cat([best, found], dim=1)
            where = torch.cat([where, torch.from_numpy(numbers).to(device)[local]], dim=1)
            best, order = best.topk(min(top, best.shape[1]), dim=1)
            where = where.gather(1, order)
        return best.cpu(), where.cpu()


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """The metadata of a file of vectors, and where its rows begin."""
    again = "no index of a library; name another file, or delete it and it is made"
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length < _LONGEST_HEADER:
                raise ValueError("not safetensors")
            metadata = json.loads(file.read(length))["__metadata__"]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: {again}") from None
    if not isinstance(metadata, dict) or metadata.get("kind") != _KIND:
        raise ValueError(f"{path}: {printable(again)}")
    return metadata, _LENGTH_BYTES + length
