"""What the pages hold: fenced blocks, commands in them and in running text, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

#: A fence, and the comment right before it: `<!-- needs: hours, network -->`.
_FENCE = re.compile(
    r"^(?:[ ]*<!-- needs: (?P<needs>[\w, ]+) -->\n)?"
    r"(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.DOTALL | re.MULTILINE,
)
_INLINE = re.compile(r"(?<!`)`((?:\.venv/bin/)?(?:xxact|make|python) [^`]+)`(?!`)")
_ASSIGNMENT = re.compile(r"[A-Z]\w*=.*", re.DOTALL)
#: What makes a block without a language one of commands.
_PROGRAMS = ("xxact", "make", "python", "pip", "git", "export", "srun", "docker", "uv", "bash")
NEEDS = {"network", "hours", "hardware", "cluster", "docker"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, first line, language, text, and what it says it needs."""

    page: str
    line: int
    language: str
    text: str
    needs: frozenset[str]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, with the shell's variables put in; none of another block."""
        if self.language not in ("", "sh"):
            return []
        found: list[list[str]] = []
        variables: dict[str, str] = {}
        for words in _logical_lines(self.text):
            while words and _ASSIGNMENT.fullmatch(words[0]):
                name, _, value = words.pop(0).partition("=")
                variables[name] = value
            filled = _filled(words, variables)
            if filled:
                found.append(filled)
        known = any(_program(words) in _PROGRAMS for words in found)
        return found if known or self.language == "sh" else []


def _logical_lines(text: str) -> Iterator[list[str]]:
    """The words of each command; quotes and backslashes may join lines."""
    pending = ""
    for line in text.splitlines():
        pending += line + "\n"
        try:
            words = shlex.split(pending.replace("\\\n", " "), comments=True)
        except ValueError:  # a quotation that goes on
            continue
        if not line.endswith("\\"):
            yield words
            pending = ""


def _filled(words: list[str], variables: dict[str, str]) -> list[str]:
    """Words with `$NAME` as a shell puts in what it was given."""
    found: list[str] = []
    for word in words:
        value = variables.get(word[1:]) if word.startswith("$") else None
        found += [word] if value is None else _filled(shlex.split(value), variables)
    return found


def _program(words: list[str]) -> str:
    return words[0].removeprefix(".venv/bin/")


def blocks() -> list[Block]:
    """All fenced blocks of all pages."""
    return [
        Block(
            path.relative_to(ROOT).as_posix(),
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
            frozenset(re.findall(r"\w+", match["needs"] or "")),
        )
        for path in PAGES
        for text in [path.read_text()]
        for match in _FENCE.finditer(text)
    ]


def inline_commands() -> list[tuple[str, list[str]]]:
    """(place, words) of the commands in running text."""
    found = []
    for path in PAGES:
        text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text())
        for match in _INLINE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            words = shlex.split(match[1].replace("\n", " "))
            found.append((f"{path.relative_to(ROOT).as_posix()}:{line}", words))
    return found
