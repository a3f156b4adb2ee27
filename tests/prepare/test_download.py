"""Downloads from a local server that behaves badly in all the ways that servers do."""

from __future__ import annotations

import bz2
import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules.prepare import command_line as cli
from datamodules.prepare.downloads import public_data
from datamodules.prepare.downloads.download import Downloader, check_bz2
from datamodules.prepare.downloads.public_data import (
    download_alexandria,
    download_mp20,
    parse_numbers,
)
from datamodules.prepare.sources.source import SourceError
from datamodules.store.store import Store
from tests.prepare.examples import alexandria_entry, csv_rows, random_structure, write_csv

CONTENT = bz2.compress(random.Random(0).randbytes(600_000))


@dataclass
class Server:
    """Serves files; `manners` are what the answers to the next requests do wrong."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    manners: list[str] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    etag: str = '"1"'

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        manner = self.manners.pop(0) if self.manners else "good"
        content = self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        if manner.isdigit():
            handler.send_error(int(manner))
            return
        if manner == "redirects":
            handler.send_response(302)
            handler.send_header("Location", "http://example.org/x")
            handler.end_headers()
            return
        start, status = 0, 200
        same = handler.headers.get("If-Range") in (None, self.etag)
        if asked and manner != "no ranges" and same:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(content):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(content)}")
                handler.end_headers()
                return
        if manner == "wrong range" and status == 206:
            start = max(start - 100, 0)
        body = content[start:]
        length = len(body)
        if manner == "claims more":
            length += 5000
        elif manner == "claims less":
            length -= 5000
        handler.send_response(status)
        if manner != "no length":
            handler.send_header("Content-Length", str(length))
        handler.send_header("ETag", self.etag)
        if status == 206:
            end = start + length - 1
            handler.send_header("Content-Range", f"bytes {start}-{end}/{start + length}")
        handler.end_headers()
        if manner == "cuts":
            body = body[: len(body) // 3]
        elif manner == "cuts at once":
            body = b""
        handler.wfile.write(body[:length])


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(files={"/a.bz2": CONTENT})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def downloader(tries: int = 4) -> Downloader:
    return Downloader(tries=tries, pause=0.0, timeout=5.0, quiet=True)


@pytest.mark.parametrize(
    "manners",
    [
        [],
        ["cuts"],
        ["cuts", "cuts", "cuts", "cuts", "cuts", "cuts", "cuts"],
        ["cuts at once", "503", "cuts", "cuts at once"],
        ["cuts", "no ranges"],
        ["cuts", "wrong range"],
        ["claims more"],
        ["cuts", "claims more"],
        ["claims less"],
        ["cuts", "claims less"],
        ["no length"],
        ["500", "429", "502"],
    ],
)
def test_bad_manners_do_not_change_the_file(
    manners: list[str], server: Server, tmp_path: Path
) -> None:
    server.manners = list(manners)
    path = tmp_path / "kept" / "a.bz2"
    assert downloader().fetch(f"{server.url}/a.bz2", path, check_bz2) == path
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["a.bz2"]


def test_a_cut_download_continues_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.manners = ["cuts"]
    downloader().fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2", check_bz2)
    third = len(CONTENT) // 3
    assert server.requests == [("/a.bz2", None), ("/a.bz2", f"bytes={third}-")]


def test_an_interrupted_command_continues_the_part(server: Server, tmp_path: Path) -> None:
    server.manners = ["cuts", "cuts at once", "cuts at once"]
    with pytest.raises(SourceError, match=r"tried 2 times.*run the same command"):
        downloader(tries=2).fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2", check_bz2)
    part = tmp_path / "a.bz2.part"
    assert part.read_bytes() == CONTENT[: len(CONTENT) // 3]
    assert not (tmp_path / "a.bz2").exists()
    downloader().fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2", check_bz2)
    assert (tmp_path / "a.bz2").read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={len(CONTENT) // 3}-"


def test_a_file_that_changed_meanwhile_is_not_mixed(server: Server, tmp_path: Path) -> None:
    server.manners = ["cuts", "cuts at once", "cuts at once"]
    with pytest.raises(SourceError):
        downloader(tries=2).fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2", check_bz2)
    new = bz2.compress(random.Random(1).randbytes(500_000))
    server.files["/a.bz2"], server.etag = new, '"2"'
    downloader().fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2", check_bz2)
    assert (tmp_path / "a.bz2").read_bytes() == new


def test_a_complete_part_is_recognised(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bz2.part").write_bytes(CONTENT)
    downloader().fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2", check_bz2)
    assert (tmp_path / "a.bz2").read_bytes() == CONTENT
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.bz2.part").write_bytes(CONTENT + b"too long")
    downloader().fetch(f"{server.url}/a.bz2", tmp_path / "b" / "a.bz2", check_bz2)
    assert (tmp_path / "b" / "a.bz2").read_bytes() == CONTENT


def test_files_that_are_there_are_kept_and_damaged_ones_replaced(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.bz2").write_bytes(CONTENT)
    downloader().fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2", check_bz2)
    assert server.requests == []
    (tmp_path / "a.bz2").write_bytes(CONTENT[:-100])
    downloader().fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2", check_bz2)
    assert (tmp_path / "a.bz2").read_bytes() == CONTENT


def test_hopeless_downloads_end_with_an_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.bz2: the server answers 404"):
        downloader().fetch(f"{server.url}/none.bz2", tmp_path / "a.bz2")
    assert len(server.requests) == 1  # not tried again
    server.manners = ["503"] * 9
    with pytest.raises(SourceError, match="503"):
        downloader().fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2")
    server.manners, server.files["/a.bz2"] = [], b"<html>not a bz2 file</html>"
    with pytest.raises(SourceError, match="not a bzip2 file"):
        downloader().fetch(f"{server.url}/a.bz2", tmp_path / "a.bz2", check_bz2)
    with pytest.raises(SourceError, match="refused"):
        downloader(2).fetch("http://127.0.0.1:9/a.bz2", tmp_path / "a.bz2")
    with pytest.raises(SourceError, match="404"):
        downloader().text(f"{server.url}/list/")


def test_the_end_of_a_bzip2_file_is_recognised_at_any_bit(tmp_path: Path) -> None:
    path = tmp_path / "x.bz2"
    for n in range(40):
        whole = bz2.compress(random.Random(n).randbytes(100 + n))
        path.write_bytes(whole)
        assert check_bz2(path) is None
        path.write_bytes(whole[:-1])
        assert check_bz2(path) == "a bzip2 file without its end"
        path.write_bytes(whole + b"\0")
        assert check_bz2(path) is not None
    path.write_bytes(b"")
    assert check_bz2(path) == "not a bzip2 file"


Run = Callable[..., int]


def alexandria_file(seed: int) -> bytes:
    entries = [alexandria_entry(f"agm{seed}-{i}", random_structure(seed + i, 3)) for i in range(3)]
    return bz2.compress(json.dumps({"entries": entries}).encode())


def test_alexandria_is_downloaded_kept_and_prepared(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"alexandria_{n:05d}.json.bz2" for n in range(3)]
    server.files = {f"/pbe/2025.07.02/{n}": alexandria_file(10 * i) for i, n in enumerate(names)}
    listing = "".join(f'<a href="{name}">{name}</a>' for name in names)
    server.files["/pbe/2025.07.02/"] = f"<html>{listing}<a>alexandria_x.json</a>".encode()
    common = ["--mirror", server.url, "--keep-in", str(tmp_path / "kept"), "--workers", "1"]
    common += ["--quiet", "--download", "pbe/2025.07.02"]
    assert cli.main(["alexandria", "--output", str(tmp_path / "all"), *common]) == 0
    assert len(Store(tmp_path / "all")) == 9
    assert Store(tmp_path / "all").manifest.source["licence"] == "CC-BY 4.0"
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["SOURCE.json", *names]
    note = json.loads((tmp_path / "kept" / "SOURCE.json").read_text())
    assert note["licence"] == "CC-BY 4.0"
    assert "doi" in note["citation"]
    server.requests.clear()
    two = ["alexandria", "--output", str(tmp_path / "two"), "--files", "0,2", *common]
    assert cli.main(two) == 0
    assert list(Store(tmp_path / "two").column("id"))[2:4] == ["agm0-2", "agm20-0"]
    assert server.requests == []  # the files were kept
    capsys.readouterr()
    assert cli.main(["alexandria", "--output", str(tmp_path / "x"), "--files", "9", *common]) == 2
    assert "404" in capsys.readouterr().err
    assert cli.main(["alexandria", "--output", str(tmp_path / "x"), "--files", "2-1", *common]) == 2
    assert "--files 2-1" in capsys.readouterr().err


def test_file_numbers_and_versions_are_checked(server: Server, tmp_path: Path) -> None:
    assert parse_numbers("0-3,7, 2") == [0, 1, 2, 3, 7]
    for text in ("", "a", "3-1", "1,,2", "-1"):
        with pytest.raises(SourceError, match="--files"):
            parse_numbers(text)
    for version in ("../x", "/etc", "a b", ""):
        with pytest.raises(SourceError, match="--download"):
            download_alexandria(downloader(), version, tmp_path)
    server.files["/pbe/"] = b"<html>nothing here</html>"
    with pytest.raises(SourceError, match="lists no alexandria"):
        download_alexandria(downloader(), "pbe", tmp_path, base_url=server.url)


def test_mp20_is_checked_by_its_number_of_rows(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = ["material_id", "formation_energy_per_atom", "band_gap", "e_above_hull", "cif"]
    rows = {"train.csv": 5, "val.csv": 3, "test.csv": 2}
    monkeypatch.setattr(public_data, "MP20_ROWS", rows)
    for seed, (name, n) in enumerate(rows.items()):
        made = [[i, -1.0, gap or 0, 0.1, cif] for i, gap, cif in csv_rows(n, 10 * seed)]
        path = write_csv(tmp_path / name, made, header)
        server.files[f"/{name}"] = path.read_bytes()
    server.manners = ["claims less"]  # a CSV that ends early can look like a whole one
    source = download_mp20(downloader(), tmp_path / "kept", server.url)
    for path in source.files:
        assert path.read_bytes() == server.files[f"/{path.name}"]
    command = ["csv", "--download", "mp-20", "--mirror", server.url, "--quiet", "--workers", "1"]
    command += ["--keep-in", str(tmp_path / "kept"), "--output", str(tmp_path / "store")]
    assert cli.main(command) == 0
    store = Store(tmp_path / "store")
    assert len(store) == 10
    assert store.target_names[:3] == ["formation_energy", "band_gap", "hull_distance"]
    assert "Xie" in store.manifest.source["citation"]
    server.files["/val.csv"] = server.files["/val.csv"][:-900]
    with pytest.raises(SourceError, match=r"val\.csv: (broken CSV|\d rows instead of 3)"):
        download_mp20(downloader(), tmp_path / "again", server.url)


@pytest.mark.parametrize(
    "url",
    ["http://example.org/a", "ftp://127.0.0.1/a", "file:///etc/passwd", "a/b", "http://10.0.0.1/a"],
)
def test_only_https_and_this_machine_are_asked(tmp_path: Path, url: str) -> None:
    with pytest.raises(SourceError, match="not an https address"):
        Downloader(quiet=True).fetch(url, tmp_path / "a")
    with pytest.raises(SourceError, match="not an https address"):
        Downloader(quiet=True).text(url)


def test_a_redirection_to_an_open_address_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    server.manners = ["redirects"]
    with pytest.raises(SourceError, match=r"http://example.org/x: not an https address"):
        downloader().fetch(f"{server.url}/a", tmp_path / "a")


def test_files_beyond_the_bound_are_refused(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    for manner in ("good", "no length"):
        server.manners = [manner]
        with pytest.raises(SourceError, match="larger than"):
            downloader().fetch(f"{server.url}/a", tmp_path / manner, max_bytes=100_000)
        assert not (tmp_path / manner).exists()


def test_passwords_are_in_no_message_and_no_note(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("://", "://me:secret@")
    with pytest.raises(SourceError) as error:
        downloader().text(f"{url}/none")
    assert "secret" not in str(error.value)


def test_a_file_that_changed_since_its_first_download_is_refused(
    server: Server, tmp_path: Path
) -> None:
    name = "alexandria_00000.json.bz2"
    server.files[f"/v1/{name}"] = CONTENT
    download_alexandria(downloader(), "v1", tmp_path, [0], server.url)
    noted = json.loads((tmp_path / "SOURCE.json").read_text())["sha256"]
    assert list(noted.values()) == [hashlib.sha256(CONTENT).hexdigest()]
    download_alexandria(downloader(), "v1", tmp_path, [0], server.url)
    (tmp_path / name).unlink()
    server.files[f"/v1/{name}"] = bz2.compress(b"something else" * 1000)
    server.etag = '"2"'
    with pytest.raises(SourceError, match="SHA-256"):
        download_alexandria(downloader(), "v1", tmp_path, [0], server.url)
