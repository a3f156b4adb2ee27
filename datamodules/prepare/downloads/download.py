"""Downloads that survive bad connections, and the public data sets that are fetched with them.

A file is written as `NAME.part` and renamed when it is complete and its check passed. Interrupted,
it continues where it ended, unless the server's file has changed in the meantime. Nothing is
fetched without encryption (but from this machine itself), beyond a bound of its size, or with
another checksum than the one that is known or that was noted at the first download.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import ipaddress
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.io.arguments import masked
from datamodules.io.files import replace_file
from datamodules.prepare.sources.source import SourceError

TRIES = 6
"""Attempts in a row that bring nothing before giving up."""
TIMEOUT = 60.0
"""Seconds without a byte."""
CHUNK = 1 << 18
MAX_BYTES = 8 << 30
"""Of a file, where its caller knows no lower bound."""
MAX_TEXT = 4 << 20
"""Of a list of files."""
SOURCE_NOTE = "SOURCE.json"

_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)

Check = Callable[[Path], str | None]
"""Looks at a complete file and returns what is wrong with it, or None."""


class _Useless(Exception):
    """An attempt that failed in a way that may pass."""


@dataclass
class Downloader:
    """Fetches files.

    Attributes:
        tries: Attempts in a row without a new byte before giving up.
        pause: Seconds before the second attempt; doubles up to a minute.
        timeout: Seconds without a byte before an attempt is given up.
        quiet: Whether to leave out the progress bar.
        max_bytes: Largest file that is fetched.
    """

    tries: int = TRIES
    pause: float = 1.0
    timeout: float = TIMEOUT
    quiet: bool = False
    max_bytes: int = MAX_BYTES

    def fetch(
        self, url: str, path: Path, check: Check | None = None, max_bytes: int | None = None
    ) -> Path:
        """Downloads a file, or finishes a download, or finds that the file is there.

        Args:
            url: Where it is.
            path: Where it goes; its folder is made.
            check: What tells whether a complete file is sound.
            max_bytes: Largest size of this file.

        Raises:
            SourceError: if it cannot be had; what was downloaded is kept for the next try.
        """
        refuse_open_connections(url)
        if path.exists() and (check is None or check(path) is None):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        failures = 0
        with tqdm(
            unit="B", unit_scale=True, desc=path.name, disable=self.quiet, file=sys.stderr
        ) as bar:
            while True:
                before = _size(part)
                try:
                    self._attempt(url, part, bar, max_bytes or self.max_bytes)
                    problem = check(part) if check is not None else None
                    if problem is None:
                        break
                    part.unlink()  # complete, but wrong: nothing of it can be trusted
                    raise _Useless(problem)
                except (_Useless, *_NETWORK_ERRORS) as error:
                    failures = 0 if _size(part) > before else failures + 1
                    if failures >= self.tries:
                        reason = str(error) or type(error).__name__
                        raise SourceError(
                            f"{masked(url)}: {reason} (tried {failures} times); run the same "
                            "command again later, it continues with what is there"
                        ) from None
                    if failures:
                        time.sleep(min(self.pause * 2 ** (failures - 1), 60))
        part.replace(path)
        _validator(part).unlink(missing_ok=True)
        return path

    def text(self, url: str) -> str:
        """Downloads a short text.

        Raises:
            SourceError: if it cannot be had, or is too long for a text.
        """
        refuse_open_connections(url)
        for attempt in range(1, self.tries + 1):
            try:
                with _open(_request(url), self.timeout) as response:
                    content = response.read(MAX_TEXT + 1)
                if len(content) > MAX_TEXT:
                    raise SourceError(
                        f"{masked(url)}: more than {MAX_TEXT >> 20} MB; check the address"
                    )
                return str(content.decode("utf-8", "replace"))
            except urllib.error.HTTPError as error:
                reason: Exception = error
                if error.code not in _TEMPORARY:
                    break
            except _NETWORK_ERRORS as error:
                reason = error
            if attempt < self.tries:
                time.sleep(min(self.pause * 2 ** (attempt - 1), 60))
        raise SourceError(f"{masked(url)}: {reason}; check the address and the connection")

    def _attempt(self, url: str, part: Path, bar: tqdm, max_bytes: int) -> None:
        """Asks for what is missing and appends it; returns if the server says that it is all."""
        have = _size(part)
        validator = _read_text(_validator(part))
        headers = {}
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator
        try:
            response = _open(_request(url, headers), self.timeout)
        except urllib.error.HTTPError as error:
            self._refused(error, url, part, have)
            return
        with response:
            total = _start_and_total(response, have)
            if total is None:  # the whole file again: it changed, or ranges are not known here
                have, total = 0, _content_length(response)
            if total is not None and total > max_bytes:
                raise _too_large(url, max_bytes)
            mark = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            # A weak validator does not promise equal bytes.
            _validator(part).write_text("" if mark.startswith("W/") else mark)
            bar.reset(total)
            bar.update(have)
            with open(part, "r+b" if have else "wb") as stream:
                stream.seek(have)
                while chunk := response.read(CHUNK):
                    if stream.tell() + len(chunk) > max_bytes:
                        raise _too_large(url, max_bytes)
                    stream.write(chunk)
                    bar.update(len(chunk))
                stream.truncate()
        if total is not None and _size(part) != total:
            raise _Useless(f"the connection ended after {_size(part)} of {total} bytes")

    def _refused(self, error: urllib.error.HTTPError, url: str, part: Path, have: int) -> None:
        if error.code == 416:  # nothing behind what we have: complete, or not the same file
            total = re.search(r"/(\d+)$", error.headers.get("Content-Range") or "")
            if total and int(total[1]) == have:
                return
            part.unlink()
            raise _Useless("the server's file is shorter than what was downloaded")
        if error.code in _TEMPORARY:
            raise _Useless(f"the server answers {error.code} {error.reason}")
        raise SourceError(
            f"{masked(url)}: the server answers {error.code} {error.reason}; check the name"
        )


def refuse_open_connections(url: str) -> None:
    """Refuses addresses whose content anybody on the way could change.

    Raises:
        SourceError: if it is neither https nor a server on this machine.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise SourceError(
            f"{masked(url)}: not an https address; give one that begins with https://"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address, if that is as safe."""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        """The next request; the last argument is its address."""
        refuse_open_connections(arguments[-1])
        return super().redirect_request(*arguments)


def _open(request: urllib.request.Request, timeout: float) -> Any:
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)


def _too_large(url: str, max_bytes: int) -> SourceError:
    return SourceError(
        f"{masked(url)}: larger than {max_bytes / 1e6:.0f} MB, which it should not be; check the "
        "address"
    )


def _request(url: str, headers: dict[str, str] | None = None) -> urllib.request.Request:
    # Without `identity` a server may compress again, and ranges would count other bytes.
    return urllib.request.Request(
        url, headers={"User-Agent": "xxact", "Accept-Encoding": "identity", **(headers or {})}
    )


def _start_and_total(response: http.client.HTTPResponse, have: int) -> int | None:
    """Total size if the answer continues at `have`, else None."""
    if response.status != 206:
        return None
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range") or "")
    if not found or int(found[1]) != have:
        raise _Useless("the server answers with another range than asked for")
    return int(found[2]) + 1 if found[3] == "*" else int(found[3])


def _content_length(response: http.client.HTTPResponse) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length and length.isdigit() else None


def _validator(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _read_text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check_bz2(path: Path) -> str | None:
    """Whether a bzip2 file begins and ends as one, without decompressing it.

    The stream ends with a 48-bit magic and a 32-bit checksum, at any bit, and up to 7 bits of
    padding.
    """
    with open(path, "rb") as stream:
        head = stream.read(3)
        size = stream.seek(0, 2)
        stream.seek(max(size - 11, 0))
        tail = int.from_bytes(stream.read(), "big")
    if head != b"BZh":
        return "not a bzip2 file"
    for padding in range(8):
        if (tail >> (32 + padding)) & 0xFFFFFFFFFFFF == 0x177245385090:
            return None
    return "a bzip2 file without its end"


def check_gzip(path: Path, most: int = 1 << 29) -> str | None:
    """Whether a gzip file is whole, by its own checksum.

    Args:
        path: The file.
        most: Bytes that it may unpack to.
    """
    total = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(1 << 20):
                total += len(chunk)
                if total > most:
                    return f"unpacks to over {most >> 20} MB"
    except (OSError, EOFError, zlib.error) as error:
        return f"not a whole gzip file ({error})"
    return None


def sha256(path: Path) -> str:
    """Checksum of a file, 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_checksums(folder: Path) -> dict[str, str]:
    """Checksums of downloaded files by address, as `note_source` has noted them."""
    try:
        noted = json.loads((folder / SOURCE_NOTE).read_bytes())["sha256"]
        return {str(url): str(digest) for url, digest in noted.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def check_all(*checks: Check | None) -> Check:
    """A check that is passed if all are."""

    def check(path: Path) -> str | None:
        return next((problem for c in checks if c and (problem := c(path))), None)

    return check


def check_sha256(expected: str) -> Check:
    """A check by the checksum of the content."""

    def check(path: Path) -> str | None:
        found = sha256(path)
        return None if found == expected else f"its SHA-256 is {found}, known is {expected}"

    return check


def note_source(
    folder: Path, name: str, licence: str, citation: str, urls: dict[str, Path]
) -> None:
    """Leaves a note of origin, licence, citation and checksums beside downloaded files."""
    note = {
        "name": name,
        "licence": licence,
        "citation": citation,
        "files": [masked(url) for url in urls],
        "sha256": known_checksums(folder)
        | {masked(url): sha256(path) for url, path in urls.items()},
    }
    replace_file(folder / SOURCE_NOTE, json.dumps(note, ensure_ascii=False, indent=1) + "\n")
