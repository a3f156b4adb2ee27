"""What a page is asked with: small models, a library and scans; and a server to ask."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_modules.inference.evidence import Calibration, digest
from tests.commands import ROOT
from tests.factories import make_store
from tests.measured import models, patterns

#: Runs `xxact`, and writes down whom it calls beyond this machine; the call fails as if offline.
_OFFLINE = """
import socket, sys
calls = open(sys.argv[1], "a", buffering=1)
def watched(real):
    def call(*given):
        address = given[1] if real is not socket_getaddrinfo else given
        host = str(address[0] if isinstance(address, tuple) else address)
        if not host.startswith(("127.", "localhost", "::1", "0.0.0.0", "/", "None")):
            calls.write(host + "\\n")
            raise OSError("offline")
        return real(*given)
    return call
socket_getaddrinfo = socket.getaddrinfo
class Socket(socket.socket):
    connect = watched(socket.socket.connect)
    connect_ex = watched(socket.socket.connect_ex)
socket.socket = Socket
socket.getaddrinfo = lambda host, *more, **named: (
    socket_getaddrinfo(host, *more, **named) if watched(lambda *_: True)(None, (host,)) else None
)
from lightning_modules.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def furnish(folder: Path) -> None:
    """Writes models, a library and scans."""
    make_store(folder / "known", 40)
    models.regression(folder / "properties.ckpt", "formation_energy", "density")
    aligned = models.aligned(folder / "aligned.ckpt")
    bank, scale = ["NaCl", "MnO", "Fe2O3", "TiO2"], [-4 + 0.05 * i for i in range(100)]
    Calibration(digest(aligned), bank, scale, 0.05, {}, {}).keep(aligned)
    x = patterns.angles(step=0.04)
    (folder / "scan.xy").write_bytes(patterns.xy(x, patterns.counts(x)))
    (folder / "scan.xrdml").write_bytes(patterns.xrdml(x, patterns.counts(x)))
    (folder / "broken.xrdml").write_text("<xrdMeasurements><cut")
    (folder / "large.xy").write_bytes(b"10.0 1\n" * (3 * 2**20 + 1))


@contextmanager
def serving(folder: Path, *flags: str, end: signal.Signals = signal.SIGTERM) -> Iterator[str]:
    """A server in a process of its own, with temporary files in a folder of its own.

    Args:
        folder: From `furnish`; `temporary` in it is the process's folder of temporary files, and
            `calls.log` has the hosts that it wanted to reach, `server.log` what it said.
        flags: Of `xxact serve`.
        end: How it is ended.

    Yields:
        Its address.
    """
    (folder / "temporary").mkdir(exist_ok=True)
    (folder / "offline.py").write_text(_OFFLINE)
    environment = os.environ | {
        "TMPDIR": str(folder / "temporary"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        # What a user may have set is not heeded.
        "GRADIO_ANALYTICS_ENABLED": "True",
    }  # fmt: skip
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        environment.pop(name, None)
    command = [
        sys.executable, str(folder / "offline.py"), str(folder / "calls.log"), "serve", "--port=0",
        f"--checkpoint={folder / 'properties.ckpt'}", f"--aligned={folder / 'aligned.ckpt'}",
        f"--library={folder / 'known'}", "--device=cpu", *flags,
    ]  # fmt: skip
    with (
        open(folder / "server.log", "w") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert "serves on http" in line, (folder / "server.log").read_text()
            yield line.split()[3]
        finally:
            process.send_signal(end)
            process.wait(30)


def left_over(folder: Path) -> list[Path]:
    """Files among the server's temporary ones."""
    return [path for path in (folder / "temporary").rglob("*") if path.is_file()]
