"""`xxact recipes`: the recipes and overlays that there are, with what each says of itself."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.io.arguments import ArgumentParser, printable

FOLDER = Path("configs")

#: What the folders within `configs` hold, but for overlays.
_OTHERS = {"sweep": "xxact sweep", "study": "xxact study KIND"}
_OVERLAYS = "xxact fit --config RECIPE"
#: The line by which editors find the schema says nothing to people.
_MODELINE = re.compile(r"#\s*yaml-language-server\b")


def first_comment(path: Path) -> str:
    """The first sentence of a file's first comment.

    Args:
        path: A YAML file; what cannot be read has no comment.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    words: list[str] = []
    for line in lines:
        if _MODELINE.match(line) or (not words and not line.strip()):
            continue
        if not line.startswith("#") or line.startswith("#   "):
            break  # the contents, or a command
        words += line.lstrip("#").split()
    # A sentence ends where the next begins: not within `regression.yaml`, nor after `e.g.`
    sentence = re.split(r"(?<=\.)\s+(?![a-z])", " ".join(words), maxsplit=1)[0]
    return printable(sentence.removesuffix(":"))


def groups(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """What the files are for, and the files.

    Args:
        folder: `configs`.

    Raises:
        ValueError: if there is no recipe.
    """
    recipes = sorted(folder.glob("*.yaml"))
    if not recipes:
        raise ValueError(f"{folder}: no recipes (*.yaml); run it in the project's folder")
    yield "recipes: xxact fit --config RECIPE", recipes
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if found := sorted(place.glob("*.yaml")):
            command = _OTHERS.get(place.name, _OVERLAYS)
            yield f"{place.name}: {command} --config {place}/…", found


def main(args: Sequence[str]) -> int:
    """Run `xxact recipes`."""
    parser = ArgumentParser(prog="xxact recipes", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: configs")
    folder: Path = parser.parse_args(args).folder
    shown = list(groups(folder))
    indent = 2 + max(len(str(path)) for _, paths in shown for path in paths) + 2
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for title, paths in shown:
        print(f"\n{title}")
        for path in paths:
            start = f"  {path}".ljust(indent)
            text = first_comment(path)
            print(
                textwrap.fill(start + text, max(width, indent + 30), subsequent_indent=" " * indent)
            )
    print(f"\nWhat a run would use: xxact fit --config {shown[0][1][0]} --print_config")
    return 0
