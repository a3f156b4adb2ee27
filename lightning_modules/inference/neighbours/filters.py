"""Which elements a material may, must and how many it can have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from datamodules.elements import ATOMIC_NUMBERS
from datamodules.io.arguments import printable
from datamodules.store.store import Store

_WORD = 64


def parse_elements(text: str, option: str) -> tuple[int, ...]:
    """Atomic numbers of a list of symbols such as `Fe,O`; ascending, each once.

    Args:
        text: Symbols, separated by commas or blanks. D and T are hydrogen, as in formulas.
        option: What the list was given as, for the message.

    Raises:
        ValueError: if there is no symbol, or one is no element's.
    """
    symbols = text.replace(",", " ").split()
    known = ATOMIC_NUMBERS | {"D": 1, "T": 1}
    for symbol in symbols:
        if symbol not in known:
            raise ValueError(
                f"{option} {printable(text, 80)}: {printable(symbol, 20)!r} is no element; give "
                "symbols separated by commas, such as Fe,O"
            )
    if not symbols:
        raise ValueError(f"{option}: names no element; give symbols such as Fe,O")
    return tuple(sorted({known[symbol] for symbol in symbols}))


@dataclass(frozen=True)
class ElementFilter:
    """What is known of a sample's elements.

    Attributes:
        allowed: Atomic numbers that a material may have; None for all.
        required: Atomic numbers that it must have.
        fewest: Smallest number of elements.
        most: Largest number of elements; None for any.

    Raises:
        ValueError: if no material can satisfy it.
    """

    allowed: tuple[int, ...] | None = None
    required: tuple[int, ...] = ()
    fewest: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        if self.allowed is not None and (outside := set(self.required) - set(self.allowed)):
            symbols = {number: symbol for symbol, number in ATOMIC_NUMBERS.items()}
            raise ValueError(
                f"element {symbols[min(outside)]} is required and not allowed; add it to the "
                "elements allowed or take it from those required"
            )
        most = len(ATOMIC_NUMBERS) if self.most is None else self.most
        if not 1 <= self.fewest <= most:
            raise ValueError(
                f"number of elements {self.fewest} to {most}: give a number from 1, or a range "
                "such as 2-4"
            )
        if self.allowed is not None and self.fewest > len(self.allowed):
            raise ValueError(
                f"{self.fewest} elements are asked for and {len(self.allowed)} allowed; allow more "
                "or ask for fewer"
            )
        if len(self.required) > most:
            raise ValueError(
                f"{len(self.required)} elements are required and at most {most} asked for; require "
                "fewer or ask for more"
            )

    @classmethod
    def of_text(
        cls, allowed: str | None = None, required: str | None = None, number: str | None = None
    ) -> ElementFilter:
        """The filter of the options `--elements`, `--require` and `--number-of-elements`.

        Args:
            allowed: Such as `Fe,O`.
            required: Such as `Fe`.
            number: Such as `2` or `2-4`.

        Raises:
            ValueError: if one cannot be read, or no material can satisfy them.
        """
        fewest, most = 1, None
        if number is not None:
            low, dash, high = number.partition("-")
            if not (low.strip().isdecimal() and (high.strip().isdecimal() or not dash)):
                raise ValueError(
                    f"--number-of-elements {printable(number, 40)}: give a number, or a range "
                    "such as 2-4"
                )
            fewest, most = int(low), int(high if dash else low)
        return cls(
            None if allowed is None else parse_elements(allowed, "--elements"),
            () if required is None else parse_elements(required, "--require"),
            fewest,
            most,
        )

    @property
    def is_on(self) -> bool:
        """Whether anything is asked for."""
        return self != ElementFilter()

    def accepts(self, bits_N2: np.ndarray) -> np.ndarray:
        """Which materials satisfy it, (N,) bool.

        Args:
            bits_N2: From `element_bits`.
        """
        fine = np.ones(len(bits_N2), bool)
        if self.allowed is not None:
            fine &= ((bits_N2 & ~_bits(self.allowed)) == 0).all(axis=1)
        if self.required:
            required = _bits(self.required)
            fine &= ((bits_N2 & required) == required).all(axis=1)
        if self.fewest > 1 or self.most is not None:
            count = np.bitwise_count(bits_N2).sum(axis=1)
            fine &= (count >= self.fewest) & (count <= (self.most or len(ATOMIC_NUMBERS)))
        return fine


def _bits(numbers: Sequence[int]) -> np.ndarray:
    """A bit for each atomic number, in two words, (2,) uint64."""
    words = [0, 0]
    for number in numbers:
        words[number // _WORD] |= 1 << (number % _WORD)
    return np.array(words, np.uint64)


def element_bits(store: Store) -> np.ndarray:
    """The elements of each row as bits, (N, 2) uint64: 16 bytes a row."""
    parts = []
    for number in range(len(store.manifest.shards)):
        column: pa.ListArray = store.shard(number).column("elements")
        elements = column.flatten().to_numpy().astype(np.uint64)
        starts = column.offsets.to_numpy()[:-1] - column.offsets[0].as_py()
        bit = np.uint64(1) << (elements % np.uint64(_WORD))
        words = [
            np.bitwise_or.reduceat(np.where(elements // np.uint64(_WORD) == w, bit, 0), starts)
            for w in (0, 1)
        ]
        parts.append(np.stack(words, axis=1).astype(np.uint64))
    return np.concatenate(parts)
