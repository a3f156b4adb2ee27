"""XML and ZIP from strangers: no entities, no DTD, nothing larger than it should be."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from datamodules.measured.scan import PatternError

MAX_MEMBER_BYTES = 128 * 2**20
"""Largest unpacked file in an archive; real ones have some megabytes."""
_MAX_MEMBERS = 2000


def parse(data: bytes, what: str) -> Element:
    """The root element.

    Args:
        data: The document.
        what: Its kind, for messages.

    Raises:
        PatternError: if it is damaged, or defines entities.
    """
    try:
        root: Element = fromstring(data, forbid_dtd=True)
    except DefusedXmlException:
        raise PatternError(f"{what}: defines entities or a DTD; no diffractometer does") from None
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


def number(text: str | None) -> float | None:
    """A number, or None."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def open_archive(data: bytes, what: str) -> zipfile.ZipFile:
    """Opens a ZIP archive in memory.

    Raises:
        PatternError: if it is none, or has too many members.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise PatternError(f"{what}: not a readable ZIP archive ({error})") from None
    if len(archive.infolist()) > _MAX_MEMBERS:
        raise PatternError(f"{what}: {len(archive.infolist())} files in it; give single scans")
    return archive


def member(archive: zipfile.ZipFile, name: str, what: str) -> bytes:
    """One file of an archive, whatever size its directory claims.

    Raises:
        PatternError: if it is damaged, encrypted or too large.
    """
    try:
        with archive.open(name) as stream:
            data = stream.read(MAX_MEMBER_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise PatternError(f"{what}: {name} cannot be unpacked ({error})") from None
    except (ValueError, OSError, KeyError) as error:
        raise PatternError(f"{what}: {name} cannot be unpacked ({error})") from None
    if len(data) > MAX_MEMBER_BYTES:
        raise PatternError(f"{what}: {name} unpacks to over {MAX_MEMBER_BYTES // 2**20} MB")
    return data
