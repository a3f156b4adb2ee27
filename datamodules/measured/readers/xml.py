"""XML and ZIP from strangers: no entities, no DTD, nothing larger or deeper than it should be."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from datamodules.measured.errors import PatternError

MAX_UNPACKED_BYTES = 64 * 2**20
"""Most that is unpacked of one archive in all; real ones hold some megabytes."""
MAX_ELEMENTS = 500_000
"""Elements of one document: a long scan of a .brml has one for each of some 10⁴ points."""
_MAX_DEPTH = 200
_MAX_MEMBERS = 2000


class _Limited(TreeBuilder):
    """Builds a tree until it is larger or deeper than any diffractometer's."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.elements, self.depth = what, 0, 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self.elements += 1
        self.depth += 1
        if self.elements > MAX_ELEMENTS or self.depth > _MAX_DEPTH:
            raise PatternError(
                f"{self.what}: over {MAX_ELEMENTS} elements or {_MAX_DEPTH} levels; no "
                "diffractometer writes as many"
            )
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self.depth -= 1
        return super().end(tag)


def parse(data: bytes, what: str) -> Element:
    """The root element.

    Args:
        data: The document.
        what: Its kind, for messages.

    Raises:
        PatternError: if it is damaged, defines entities, or is too large or too deep.
    """
    parser = DefusedXMLParser(target=_Limited(what), forbid_dtd=True)
    try:
        parser.feed(data)
        root: Element = parser.close()
    except DefusedXmlException:
        raise PatternError(f"{what}: defines entities or a DTD; no diffractometer does") from None
    except PatternError:
        raise
    # LookupError and ValueError: an encoding that Python does not know or cannot parse.
    except (ParseError, LookupError, ValueError) as error:
        raise PatternError(f"{what}: not well-formed XML ({error}); the file is damaged") from None
    return root


def local(element: Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def find_all(element: Element, name: str) -> Iterator[Element]:
    """All descendants of a name, in whatever namespace."""
    return (child for child in element.iter() if local(child) == name)


def find(element: Element, name: str) -> Element | None:
    """The first descendant of a name, in whatever namespace."""
    return next(find_all(element, name), None)


def text_of(element: Element, name: str) -> str | None:
    """The text of the first descendant of a name."""
    found = find(element, name)
    return found.text.strip() if found is not None and found.text else None


def number(text: str | None) -> float | None:
    """A number, or None."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


class Archive:
    """A ZIP archive in memory, of which only so much is unpacked.

    Raises:
        PatternError: if it is none, or has too many members.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self.what = what
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise PatternError(f"{what}: not a readable ZIP archive ({error})") from None
        if len(self._archive.infolist()) > _MAX_MEMBERS:
            raise PatternError(
                f"{what}: {len(self._archive.infolist())} files in it; give single scans"
            )
        self.names = sorted(set(self._archive.namelist()))
        self._left = MAX_UNPACKED_BYTES

    def read(self, name: str) -> bytes:
        """One file of the archive, whatever size its directory claims.

        Raises:
            PatternError: if it is damaged or encrypted, or too much has been unpacked with it.
        """
        try:
            # Other methods than these take memory as the file says.
            if self._archive.getinfo(name).compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise PatternError(f"{self.what}: {name} is packed by an unusual method; zip anew")
            with self._archive.open(name) as stream:
                data = stream.read(self._left + 1)
        except PatternError:
            raise
        except (
            *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError),
            *(ValueError, OSError, KeyError),
        ) as error:
            raise PatternError(f"{self.what}: {name} cannot be unpacked ({error})") from None
        if len(data) > self._left:
            raise PatternError(
                f"{self.what}: unpacks to over {MAX_UNPACKED_BYTES // 2**20} MB ({name})"
            )
        self._left -= len(data)
        return data
