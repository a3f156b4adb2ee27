"""`xxact serve`: predictions and retrieval as a page in the browser."""

import ipaddress
import os
import signal
import socket
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from datamodules.io.arguments import ArgumentParser, require
from datamodules.measured.options import add_options, options_from
from lightning_modules.inference.command_line import ALIGNED, PROPERTIES, choose_models
from lightning_modules.inference.neighbours import Library
from lightning_modules.inference.prediction import Predictor
from lightning_modules.page.answering import Answerer
from lightning_modules.retrieval import Retriever

PORT = 7860
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
#: Says that nobody is told of anything, whatever the user's environment says.
_SILENCE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_SHARE": "False",
}


def main(args: Sequence[str]) -> int:
    """Runs `xxact serve`."""
    given = make_parser().parse_args(args)
    require("gradio", "serve", "xxact serve")
    answerer = make_answerer(given)
    listening = _listen(given.host, given.port)
    signal.signal(signal.SIGTERM, _ended)
    with listening, tempfile.TemporaryDirectory(prefix="xxact-page-") as folder:
        uploads = Path(folder) / "uploads"
        uploads.mkdir()
        os.environ |= _SILENCE | {"GRADIO_TEMP_DIR": str(uploads)}
        # Gradio reads its environment when it is imported.
        from lightning_modules.page import server

        address, port = listening.getsockname()[:2]
        is_local = ipaddress.ip_address(address).is_loopback
        if not is_local:
            print(
                f"xxact: warning: whoever reaches {given.host}:{port} may ask, without a password "
                "and unencrypted; --host 127.0.0.1 is for this machine alone",
                file=sys.stderr,
            )
        page = server.make_page(answerer, uploads)
        application = server.make_application(page, uploads, LOOPBACK if is_local else None)
        shown = given.host if ":" not in given.host else f"[{given.host}]"
        print(f"xxact serves on http://{shown}:{port}  (Ctrl-C ends it)", flush=True)
        server.run(application, listening)
    return 0


def make_answerer(given: Namespace) -> Answerer:
    """Opens the models and the library that flags name, each once.

    Args:
        given: What the parser made of the command line.

    Raises:
        ValueError: if one of them cannot be used.
    """
    options = options_from(given)
    checkpoint, aligned = choose_models(given.checkpoint, given.aligned)
    # Lines are compared without a model; what is near is a model's word.
    predictor = Predictor(
        checkpoint, device=given.device, aligned=aligned, options=options,
        allow_tasks=given.allow_task, library=given.library if aligned else (),
    )  # fmt: skip
    retriever = None
    if given.library:
        retriever = Retriever(predictor.library or Library(given.library), device=predictor.device)
    return Answerer(predictor, retriever, options, given.axis, given.top)


def make_parser() -> ArgumentParser:
    """The flags of `xxact serve`."""
    parser = ArgumentParser(
        prog="xxact serve",
        description="A page for the browser: drop a scan, give a composition, and see properties, "
        "evidence and the known materials that fit. It needs no network and tells nobody.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen on (127.0.0.1: this machine alone)",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"port ({PORT}); 0 takes any that is free"
    )
    parser.add_argument(
        "--checkpoint",
        help="of a regression run; or a model: its folder, its name in models/, hf://OWNER/NAME "
        f"({PROPERTIES}, which comes with the project)",
    )
    parser.add_argument(
        "--aligned", metavar="CHECKPOINT",
        help="of a calibrated alignment, or a model, which flags contradictions and finds near "
        f"materials (with the project's own {PROPERTIES}: its own {ALIGNED})",
    )  # fmt: skip
    parser.add_argument(
        "--library", action="append", default=[], metavar="STORE",
        help="store of known materials to compare scans with; repeatable",
    )  # fmt: skip
    parser.add_argument("--top", type=int, default=5, help="known materials that are shown (5)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: auto)")
    parser.add_allow_task()
    add_options(parser)
    return parser


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a port that is taken is told before anything is served.

    Raises:
        ValueError: if it cannot be bound.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}: give a number from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # Who comes between the address being printed and the server being ready waits.
        listening.listen()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"{host}:{port}: cannot be listened on ({reason}); choose another --port or --host"
        ) from None
    return listening


def _ended(signum: int, frame: object) -> NoReturn:
    """Ends the process as if it had been interrupted, so that uploads are removed."""
    sys.exit(128 + signum)
