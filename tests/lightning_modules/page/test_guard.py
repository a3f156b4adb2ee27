"""Who may ask, how much, and what a browser may load."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from lightning_modules.page import guard
from lightning_modules.page.command_line import LOOPBACK
from lightning_modules.page.guard import Guard, Message, Receive, Scope, Send


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/html"), (b"Referrer-Policy", b"unsafe-url")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"answer"})


def ask(
    uploads: Path, headers: Mapping[str, str], method: str = "GET", path: str = "/",
    hosts: tuple[str, ...] | None = LOOPBACK, kind: str = "http",
) -> tuple[int, str, dict[bytes, bytes]]:  # fmt: skip
    """Status, body and headers."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    given = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "headers": given}
    asyncio.run(Guard(page, uploads, hosts)(scope, receive, send))
    if kind == "websocket":
        return sent[0]["code"], sent[0]["reason"], {}
    return sent[0]["status"], sent[1]["body"].decode(), dict(sent[0]["headers"])


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST"])
def test_the_page_is_given_out_with_a_policy_that_loads_nothing_from_elsewhere(
    tmp_path: Path, host: str
) -> None:
    status, body, headers = ask(tmp_path, {"host": host})
    assert (status, body) == (200, "answer")
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "*" not in policy
    # An answer's own wish does not count.
    assert headers[b"referrer-policy"] == b"no-referrer"
    assert b"Referrer-Policy" not in headers


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1.evil.example", ""])
def test_a_page_of_somebody_else_cannot_call_it_by_another_name(tmp_path: Path, host: str) -> None:
    status, body, _ = ask(tmp_path, {"host": host})
    assert status == 421
    assert body.startswith("xxact: error: ")
    assert ask(tmp_path, {"host": host}, kind="websocket")[0] == 1008
    # Where it is given out to others on purpose, names are not known.
    assert ask(tmp_path, {"host": host}, hosts=None)[0] == 200


@pytest.mark.parametrize(
    ("length", "status"), [("1000", 200), (str(guard.UPLOAD_BYTES), 200), (str(10**9), 413),
                           ("", 411), ("-5", 411), ("1e3", 411)],
)  # fmt: skip
def test_uploads_are_bounded_in_size_whatever_they_call(
    tmp_path: Path, length: str, status: int
) -> None:
    headers = {"host": "localhost"} | ({"content-length": length} if length else {})
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/anything"):
        assert ask(tmp_path, headers, "POST", path)[0] == status


def test_uploads_are_bounded_in_number_and_old_ones_are_removed(tmp_path: Path) -> None:
    headers = {"host": "localhost", "content-length": "10"}
    folders = [tmp_path / f"upload{i}" for i in range(guard.UPLOADS)]
    for folder in folders:
        folder.mkdir()
        (folder / "scan.xy").write_text("10 1\n")
    (tmp_path / "tmpempty").touch()
    assert ask(tmp_path, headers, "POST", "/gradio_api/upload")[0] == 429
    assert ask(tmp_path, headers, "POST", "/gradio_api/upload/")[0] == 429
    assert ask(tmp_path, headers, "POST", "/gradio_api/queue/join")[0] == 200
    old = time.time() - guard.PATIENCE - 1
    os.utime(folders[0], (old, old))
    assert ask(tmp_path, headers, "POST", "/gradio_api/upload")[0] == 200
    assert sorted(tmp_path.iterdir()) == sorted(folders[1:])
