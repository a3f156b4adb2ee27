"""Streams the entries of a JSON file that is too large to be parsed at once.

A compiled scanner follows brackets and strings and cuts the text into entries; each is parsed
later, by whoever needs it. Accepts a bare list of entries or an object with a list "entries".
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from numba import njit
from numpy.typing import NDArray

CHUNK = 1 << 20
MAX_ENTRY = 64 << 20
"""Bytes; a longer entry is a lost quote or bracket."""

MAX_RECORD = 1 << 20
"""Bytes of an entry that is parsed: 4 000 atoms. 1 024 entries are in the memory at once."""
MAX_BETWEEN = 1 << 20
"""Bytes between two entries, before the first and after the last: blanks, mostly."""

_ENTRIES_KEY = re.compile(rb'"entries"\s*:\s*\Z')


class BrokenJson(ValueError):
    """The file as a whole is no JSON of the expected form."""


def iterate_entries(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """Cuts a JSON text into the entries of its list.

    Args:
        stream: The text, UTF-8.

    Yields:
        The text of each element of the list, in order; what is between two commas and is no
        object or list comes as it is.

    Raises:
        BrokenJson: if there is no list of entries, or the text ends within it.
    """
    scanner = _Scanner(stream)
    opening = scanner.first_byte()
    if opening == b"[":
        yield from scanner.elements(1)
    elif opening == b"{":
        if not scanner.enter_list_of_entries():
            raise BrokenJson('no list "entries" at the top')
        yield from scanner.elements(2)
    else:
        raise BrokenJson(f"starts with {opening!r}, not with a list or an object")
    scanner.finish()


def parse_entry(text: bytes) -> Any:
    """Parses one entry; NaN and infinities, which are no JSON but occur, are accepted.

    Raises:
        ValueError: if it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # refuses NaN literals; the standard library does not
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("brackets nested too deeply") from None


class _Scanner:
    """A window on the stream, and where in the JSON it stands."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._data = b""
        self._position = 0
        self._ended = False
        # Depth of brackets, within a string, after a backslash.
        self._state = np.zeros(3, np.int64)

    def first_byte(self) -> bytes:
        """The first byte that is not white space; empty if there is none."""
        while not self._data.strip() and len(self._data) <= MAX_BETWEEN and self._more():
            pass
        if len(self._data) > MAX_BETWEEN and not self._data.strip():
            raise BrokenJson(f"starts with more than {MAX_BETWEEN >> 20} MB of blanks")
        return self._data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]

    def enter_list_of_entries(self) -> bool:
        """Goes to behind the opening bracket of the top object's "entries"."""
        self._next_event(0)
        start = self._position
        while (event := self._next_event(1, start)) is not None:
            start, end = event
            if self._state[0] == 0:
                return False
            key, bracket = self._data[start : end - 1], self._data[end - 1 : end]
            if bracket == b"[" and _ENTRIES_KEY.search(key):
                return True
            if self._next_event(1) is None:  # skips another key's list or object
                return False
            start = self._position
        return False

    def elements(self, depth: int) -> Iterator[bytes]:
        """Elements of the list that is open at a depth, until it is closed."""
        if depth == 1:
            self._next_event(0)
        start = self._position
        while True:
            event = self._next_event(depth, start, MAX_BETWEEN, "what is between two entries")
            if event is None:
                raise BrokenJson("the text ends within the list of entries")
            start, end = event
            closed = self._state[0] < depth
            for between in self._data[start : end - 1].split(b","):
                if between.strip():
                    yield between.strip()
            if closed:
                return
            event = self._next_event(depth, end - 1)
            if event is None:
                raise BrokenJson("the text ends within an entry")
            start, end = event
            yield self._data[start:end]
            start = end

    def finish(self) -> None:
        """Reads to the end: a truncated file may show only there.

        Raises:
            BrokenJson: if a bracket is still open, or was closed too often.
        """
        while (depth := int(self._state[0])) > 0:
            if self._next_event(depth - 1) is None:
                raise BrokenJson("the text ends before its last bracket")
        rest = self._data[self._position :].strip()
        blanks = 0
        while not rest and (chunk := self._stream.read(CHUNK)):
            rest = chunk.strip()
            blanks += len(chunk)
            if blanks > MAX_BETWEEN and not rest:
                raise BrokenJson(f"ends with more than {MAX_BETWEEN >> 20} MB of blanks")
        if rest:
            raise BrokenJson(f"{rest[:20]!r} after the last bracket")

    def _next_event(
        self, depth: int, keep: int | None = None, most: int | None = None, what: str = "an entry"
    ) -> tuple[int, int] | None:
        """Goes to behind the next bracket that opens from, or closes to, a depth (or less).

        Returns:
            Where in the window the text to keep starts, and the position; None at the end.
        """
        start = self._position if keep is None else keep
        while True:
            view = np.frombuffer(self._data, np.uint8)
            self._position, found = _scan(view, self._position, depth, self._state)
            most = MAX_ENTRY if most is None else most
            if self._position - start > most:
                raise BrokenJson(f"{what} is longer than {most >> 20} MB")
            if found:
                return start, self._position
            self._data = self._data[start:]
            self._position -= start
            start = 0
            if not self._more():
                return None

    def _more(self) -> bool:
        chunk = self._stream.read(CHUNK)
        self._data += chunk
        return bool(chunk)


@njit(cache=True)
def _scan(
    data: NDArray[np.uint8], position: int, depth: int, state: NDArray[np.int64]
) -> tuple[int, bool]:
    """Follows the text to behind the next bracket that opens from, or closes to, `depth`."""
    level, in_string, escaped = state[0], state[1], state[2]
    found = False
    n = len(data)
    while position < n and not found:
        byte = data[position]
        position += 1
        if in_string:
            if escaped:
                escaped = 0
            elif byte == 92:  # backslash
                escaped = 1
            elif byte == 34:  # quote
                in_string = 0
        elif byte == 34:
            in_string = 1
        elif byte == 123 or byte == 91:  # { [
            found = level == depth
            level += 1
        elif byte == 125 or byte == 93:  # } ]
            level -= 1
            found = level <= depth
    state[0], state[1], state[2] = level, in_string, escaped
    return position, found
