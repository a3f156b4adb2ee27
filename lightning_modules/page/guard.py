"""What stands between the network and the page: who may ask, how much, and what a browser may load.

The page's library accepts files of any size and number, and keeps them; a browser would load
whatever a page names. Both are bounded here, for every path alike.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from pathlib import Path
from shutil import rmtree
from typing import Any

#: Bytes of an upload; scans have some hundred kilobytes.
UPLOAD_BYTES = 20 * 2**20
#: Uploads that wait for their answer at a time.
UPLOADS = 32
#: Seconds after which an upload that nobody asked about is removed.
PATIENCE = 600.0
#: What a multipart form adds to a file.
_FORM_BYTES = 2**16

#: Nothing is loaded from elsewhere, sent elsewhere, or framed by others. The page's library makes
#: its own scripts and styles in place.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
_HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Wraps an ASGI application.

    Args:
        application: What is guarded.
        uploads: Folder in which it keeps what was uploaded.
        hosts: Names under which a browser may call it; None for any. Without it a page of
            somebody else, whose name was turned to point at this machine, could read answers.
    """

    def __init__(
        self, application: Application, uploads: Path, hosts: Collection[str] | None
    ) -> None:
        self._application, self._uploads, self._hosts = application, uploads, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it in one line."""
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _refuse(scope, send, *refused)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message["headers"] if k.lower() not in _HEADERS]
                message["headers"] = [*kept, *_HEADERS.items()]
            await send(message)

        await self._application(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """The status and the reason for which a request is refused; None where it is not."""
        if self._hosts is not None and _host(headers) not in self._hosts:
            return 421, "called by another name than its own; open the address that was printed"
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return None
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return 411, "the request does not say how long it is"
        # The server reads no more than that.
        if int(length) > UPLOAD_BYTES + _FORM_BYTES:
            return 413, f"an upload of over {UPLOAD_BYTES // 2**20} MB; no scan is as large"
        if scope["path"].rstrip("/").endswith("/upload") and self._waiting() >= UPLOADS:
            return 429, f"{UPLOADS} uploads are waiting for their answers; try again in a while"
        return None

    def _waiting(self) -> int:
        """How many uploads there are, after those that nobody asked about are gone."""
        sweep(self._uploads, time.time() - PATIENCE)
        return sum(path.is_dir() for path in self._uploads.iterdir())


def sweep(uploads: Path, before: float) -> None:
    """Removes what was uploaded before a time, and the empty files that the page's library leaves.

    Args:
        uploads: The folder of all uploads.
        before: Seconds since the epoch.
    """
    for path in uploads.iterdir():
        try:
            state = path.stat()
            if path.is_dir() and state.st_mtime < before:
                rmtree(path, ignore_errors=True)
            elif path.is_file() and (state.st_size == 0 or state.st_mtime < before):
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            # Another request was sooner.
            continue


def _host(headers: dict[bytes, bytes]) -> str:
    """The name in a request's `Host`, without its port."""
    name = headers.get(b"host", b"").decode("latin-1").lower()
    if name.startswith("["):
        return name[: name.find("]") + 1]
    return name.partition(":")[0]


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    body = f"xxact: error: {reason}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
