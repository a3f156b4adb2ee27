"""The server and its API, asked by Gradio's client and by hand; without a browser."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lightning_modules.__main__ import main
from lightning_modules.page import guard
from tests.commands import ROOT, error_of
from tests.factories import make_material
from tests.lightning_modules.page import laboratory

gradio_client = pytest.importorskip("gradio_client", reason="`xxact serve` is an extra: .[serve]")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(lab: Path) -> Iterator[str]:
    with laboratory.serving(lab) as address:
        yield address
    assert (lab / "calls.log").read_text() == "", "it wanted to reach other hosts"
    assert list((lab / "temporary").iterdir()) == [], "something stays when it ends"


@pytest.fixture(scope="module")
def client(address: str, lab: Path) -> "gradio_client.Client":
    return gradio_client.Client(address, verbose=False, download_files=str(lab / "downloads"))


def post(address: str, path: str, length: int, host: str = "") -> tuple[int, str]:
    """Status and body of a request that announces a length; nothing is sent."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.putrequest("POST", path, skip_host=bool(host))
    if host:
        connection.putheader("Host", host)
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_three_lines_get_an_answer_and_nothing_stays(address: str, lab: Path) -> None:
    before = set(laboratory.left_over(lab))
    # The example of docs/serve.md.
    client = gradio_client.Client(address, verbose=False)
    answer = client.predict(
        gradio_client.handle_file(lab / "scan.xy"), "NaCl", "CuKa", False, api_name="/answer"
    )
    assert answer["prediction"]["pattern"] == "scan.xy"
    assert answer["prediction"]["density_predicted"] is not None
    assert answer["matches"][0]["id"] == make_material(4).id
    assert set(laboratory.left_over(lab)) - before == set()


def test_a_composition_alone_needs_no_file(client: "gradio_client.Client") -> None:
    answer = client.predict(None, "Fe,O", "", True, api_name="/answer")
    assert answer["prediction"]["candidates"]
    assert answer["matches"] == []


@pytest.mark.parametrize(
    ("name", "composition", "wavelength", "reason"),
    [
        ("scan.xy", "NaCl", "", "scan.xy: the wavelength is unknown"),
        ("broken.xrdml", "", "", "broken.xrdml"),
        (None, "", "", "nothing is given"),
        (None, "", "kitchen", "wavelength 'kitchen'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_stays(
    client: "gradio_client.Client", lab: Path, name: str | None, composition: str,
    wavelength: str, reason: str,
) -> None:  # fmt: skip
    file = None if name is None else gradio_client.handle_file(lab / name)
    with pytest.raises(Exception, match=reason) as raised:
        client.predict(file, composition, wavelength, True, api_name="/answer")
    assert "Traceback" not in str(raised.value)
    assert str(lab) not in str(raised.value)
    assert laboratory.left_over(lab) == []
    assert "Traceback" not in (lab / "server.log").read_text()


def test_only_the_answer_can_be_called(client: "gradio_client.Client") -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert list(endpoints["named_endpoints"]) == ["/answer"]


@pytest.mark.parametrize(
    "name", ["scan.xy", "{lab}/scan.xy", "/etc/hostname", "{uploads}/../../scan.xy",
             "http://127.0.0.1:1/scan.xy", "file:///etc/hostname"],
)  # fmt: skip
def test_what_was_not_uploaded_cannot_be_asked_about(address: str, lab: Path, name: str) -> None:
    uploads = next((lab / "temporary").glob("xxact-page-*")) / "uploads"
    path = name.format(lab=lab, uploads=uploads)
    there = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [there, "NaCl", "CuKa", False]})
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/gradio_api/call/answer", body, headers)
    event = json.loads(connection.getresponse().read())["event_id"]
    connection.request("GET", f"/gradio_api/call/answer/{event}")
    said = connection.getresponse().read().decode()
    assert "event: error" in said
    assert "density" not in said
    assert "Traceback" not in said
    assert laboratory.left_over(lab) == []


@pytest.mark.parametrize("path", ["scan.xy", "{lab}/scan.xy", "/etc/hostname"])
def test_no_file_of_this_machine_is_given_out(address: str, lab: Path, path: str) -> None:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.request("GET", f"/gradio_api/file={path.format(lab=lab)}")
    answer = connection.getresponse()
    assert answer.status in (403, 404)


def test_too_large_a_scan_is_refused(
    address: str, client: "gradio_client.Client", lab: Path
) -> None:
    with pytest.raises(Exception, match=r"413|20 MB|exceeded|size"):
        client.predict(
            gradio_client.handle_file(lab / "large.xy"), "", "CuKa", True, api_name="/answer"
        )
    status, body = post(address, "/gradio_api/upload", guard.UPLOAD_BYTES * 2)
    assert (status, body.count("\n")) == (413, 1)
    assert post(address, "/gradio_api/queue/join", 10, host="evil.example")[0] == 421
    assert laboratory.left_over(lab) == []


def test_pages_of_other_sites_get_no_permission(address: str) -> None:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request("GET", "/config", headers={"Origin": "http://evil.example"})
    answer = connection.getresponse()
    answer.read()
    assert answer.headers.get("Access-Control-Allow-Origin") in (None, "")
    assert "default-src 'self'" in (answer.headers["Content-Security-Policy"] or "")


@pytest.mark.parametrize(("end", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_ends_clean(lab: Path, tmp_path: Path, end: signal.Signals, status: int) -> None:
    code = "import sys; from lightning_modules.__main__ import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port=0", "--host=0.0.0.0",
         f"--checkpoint={lab / 'properties.ckpt'}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert "serves on http://0.0.0.0:" in process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(end)
        _, told = process.communicate(timeout=30)
    assert process.returncode == status
    assert "xxact: warning: whoever reaches 0.0.0.0:" in told
    assert "Traceback" not in told
    assert list(tmp_path.glob("xxact-*")) == []


def test_a_port_that_is_taken_is_told_in_one_line(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = [f"--port={port}", f"--checkpoint={lab / 'properties.ckpt'}", "--device=cpu"]
        message = error_of(capsys, lambda: main(["serve", *flags]))
    assert f"127.0.0.1:{port}: cannot be listened on" in message
    assert "--port" in message
