"""The page itself, made with Gradio, and the server that gives it out.

Imported only once `command_line` has told Gradio where to keep files and that it may tell nobody.
"""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import uvicorn
from fastapi import FastAPI

from datamodules.io.mistakes import told
from datamodules.measured.readers.files import SUFFIXES
from datamodules.measured.wavelength import wavelength_of_row
from datamodules.radiation import ANODES
from lightning_modules.page.answering import Answer, Answerer, Question
from lightning_modules.page.guard import UPLOAD_BYTES, Guard, sweep
from lightning_modules.page.shown import EMPTY, data_of, error_box, html_of, read_note

#: Pages that are open at a time; the scan of each is in memory.
SESSIONS = 32
#: Questions that wait at a time.
WAITING = 16
#: Seconds for which a page that nobody touches keeps its scan.
_KEPT = 3600
#: Seconds for which requests may go on when the server is ended.
_GRACE = 3
_BUG = "a fault of xxact, not of your scan; its traceback is in the window where it was started"
#: Fonts of the machine itself: the usual themes fetch theirs.
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
T = TypeVar("T")
STYLE = Path(__file__).with_name("style.css")


@dataclass(frozen=True)
class Upload:
    """A scan that was dropped, kept in memory until the page is closed or left alone.

    Attributes:
        name: The file's.
        content: Its bytes.
    """

    name: str
    content: bytes


class Page(gr.Blocks):
    """A page whose inputs may name files that were uploaded, and no others.

    Gradio looks itself only when it has opened the port itself; here it would read any file of this
    machine that a request names, and fetch any address.
    """

    async def preprocess_data(
        self,
        block_fn: Any,
        inputs: list[Any],
        state: Any,
        explicit_call: bool = False,
    ) -> Any:
        """As of Gradio, after a look at the files.

        Raises:
            gr.Error: if one was not uploaded.
        """
        for name in named_files(inputs):
            if not was_uploaded(name, Path(gr.utils.get_upload_folder())):
                raise gr.Error("the scan was not uploaded; drop the file", print_exception=False)
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)


def named_files(what: Any) -> list[str]:
    """All that a request's values could name as a file, however deep."""
    if isinstance(what, dict):
        named = [str(what["path"])] if what.get("path") is not None else []
        return named + [name for value in what.values() for name in named_files(value)]
    if isinstance(what, list | tuple):
        return [name for value in what for name in named_files(value)]
    return []


def was_uploaded(path: str, uploads: Path) -> bool:
    """Whether a file lies in the folder of uploads, links followed."""
    return Path(path).is_absolute() and Path(path).resolve().is_relative_to(uploads.resolve())


def take(path: str | None, uploads: Path) -> Upload | None:
    """What was uploaded; it is gone from the disk afterwards.

    Args:
        path: Where the page's library has put it; None where nothing was uploaded.
        uploads: The folder in which it keeps uploads.

    Raises:
        ValueError: if it is not there any more, or is too large.
    """
    if path is None:
        return None
    file, folder = Path(path), uploads.resolve()
    if not was_uploaded(path, uploads):
        raise ValueError(f"{file.name}: was not uploaded")
    try:
        if file.stat().st_size > UPLOAD_BYTES:
            raise ValueError(
                f"{file.name}: is over {UPLOAD_BYTES // 2**20} MB; no scan is as large"
            )
        return Upload(file.name, file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{file.name}: is not there any more; drop it again") from None
    finally:
        if file.parent.resolve() != folder:
            shutil.rmtree(file.parent, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)
        sweep(uploads, 0.0)


def make_page(answerer: Answerer, uploads: Path) -> gr.Blocks:
    """The page and its API.

    Args:
        answerer: Gives the answers, one after the other.
        uploads: Folder in which Gradio keeps what was uploaded.
    """
    # The page and the API ask the same models.
    one_at_a_time = threading.Lock()

    def ask(upload: Upload | None, composition: str, wavelength: str, only: bool) -> Answer:
        name, content = (upload.name, upload.content) if upload else ("", None)
        question = Question(composition or "", name, content, wavelength or "", bool(only))
        with one_at_a_time:
            return answerer(question)

    def note_of(upload: Upload | None, wavelength: str) -> str:
        """What there is to say of a scan before anything is asked."""
        if upload is None:
            return ""

        def read() -> str:
            question = Question(name=upload.name, content=upload.content)
            given = wavelength_of_row(wavelength) is not None
            return read_note(answerer.read(question), question, given)

        return _guarded(read, error_box)

    def dropped(path: str | None, wavelength: str) -> tuple[Upload | None, str]:
        def look() -> tuple[Upload | None, str]:
            upload = take(path, uploads)
            return upload, note_of(upload, wavelength)

        return _guarded(look, lambda line: (None, error_box(line)))

    def answered(upload: Upload | None, composition: str, wavelength: str, only: bool) -> str:
        return _guarded(
            lambda: html_of(ask(upload, composition, wavelength, only), answerer), error_box
        )

    def called(scan: str | None, composition: str, wavelength: str, only: bool) -> dict[str, Any]:
        """Answer a scan, a composition, or both: properties, matches and nearest materials."""

        def work() -> dict[str, Any]:
            found = data_of(ask(take(scan, uploads), composition, wavelength, only))
            if found["error"]:
                raise ValueError(found["error"])
            return found

        def fail(line: str) -> dict[str, Any]:
            raise gr.Error(line, print_exception=False)

        return _guarded(work, fail)

    library = answerer.library
    with Page(
        title="xxact",
        analytics_enabled=False,
        delete_cache=(60, int(_KEPT / 6)),
    ) as page:
        scan = gr.State(None, time_to_live=_KEPT)
        with gr.Row(elem_classes="x-row"):
            with gr.Column(scale=4, min_width=300, elem_classes="x-asked"):
                gr.HTML(
                    "<h1>xxact</h1><p class='x-quiet'>Composition and powder pattern to "
                    "properties, with intervals"
                    + ("." if library is None else f"; {len(library)} known materials to compare.")
                    + "</p>"
                )
                file = gr.File(
                    label="Scan", file_count="single", type="filepath", height=130,
                    elem_id="scan",
                )  # fmt: skip
                note = gr.HTML("", elem_id="note")
                composition = gr.Textbox(
                    label="Composition", placeholder="Fe2O3", max_lines=1, elem_id="composition",
                    info=_composition_hint(),
                )  # fmt: skip
                wavelength = gr.Textbox(
                    label="Wavelength", placeholder="CuKa", max_lines=1, elem_id="wavelength",
                    info="only if the file does not say it: Å, or a tube: "
                    + ", ".join(f"{anode}Ka" for anode in ANODES),
                )  # fmt: skip
                only = gr.Checkbox(
                    True, label="Known materials may have no other elements than these",
                    visible=library is not None, elem_id="only",
                )  # fmt: skip
                button = gr.Button("Answer", variant="primary", elem_id="ask")
                gr.HTML(
                    "<p class='x-quiet'>Scans are not kept and nothing leaves "
                    f"this machine. Formats: {' '.join(sorted(SUFFIXES))}</p>"
                )
            with gr.Column(scale=9, min_width=300):
                answer = gr.HTML(EMPTY, elem_id="answer")
        private = {"api_visibility": "private", "show_progress": "minimal"}
        for event in (file.upload, file.clear):
            event(dropped, [file, wavelength], [scan, note], **private)
        wavelength.blur(note_of, [scan, wavelength], note, **private)
        asked = [scan, composition, wavelength, only]
        for event in (button.click, composition.submit, wavelength.submit):
            event(answered, asked, answer, **private)
        with gr.Row(visible=False):
            inputs = [
                gr.File(label="scan", type="filepath"),
                gr.Textbox(label="composition"),
                gr.Textbox(label="wavelength"),
                gr.Checkbox(True, label="elements_known"),
            ]
            gr.Button().click(called, inputs, gr.JSON(label="answer"), api_name="answer")
    page.queue(max_size=WAITING, default_concurrency_limit=2)
    page.state_session_capacity = SESSIONS
    return page


def make_application(page: gr.Blocks, uploads: Path, hosts: Collection[str] | None) -> Guard:
    """The page as an ASGI application, guarded.

    Args:
        page: From `make_page`.
        uploads: Folder in which Gradio keeps what was uploaded.
        hosts: Names under which it may be called; None for any.
    """
    application = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        max_file_size=UPLOAD_BYTES,
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=make_theme(),
        css=STYLE.read_text(encoding="utf-8"),
    )
    return Guard(application, uploads, hosts)


def make_theme() -> gr.themes.Base:
    """Fonts of the machine itself, the colours of the figures, and text that can be read."""
    theme = gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=_MONO)
    return theme.set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        checkbox_background_color_selected="*primary_700",
        checkbox_border_color_selected="*primary_700",
    )  # fmt: skip


def run(application: Guard, listening: socket.socket) -> None:
    """Gives the page out until the process is told to end.

    Args:
        application: From `make_application`.
        listening: A bound socket.
    """
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=_GRACE, proxy_headers=False,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


def _guarded(work: Callable[[], T], failed: Callable[[str], T]) -> T:
    """What work gives, or what is made of its error's line; a bug's traceback goes to stderr."""
    try:
        return work()
    except Exception as error:
        line = told(error)
        if line is None:
            print(time.strftime("%Y-%m-%d %H:%M:%S"), "xxact serve:", file=sys.stderr)
            traceback.print_exc()
            line = _BUG
        return failed(line)


def _composition_hint() -> str:
    return "a formula, its elements (Fe,O), or percentages (Fe 55±2, O 45±2 at%)"
