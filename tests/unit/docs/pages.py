"""The fenced blocks of the documentation."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "cluster" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, under which heading, and its text."""

    page: str
    line: int
    heading: str
    text: str

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.page}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    """All blocks of one language on a page."""
    content = page.read_text(encoding="utf-8")
    results = []
    for match in _BLOCK.finditer(content):
        if match["language"] == language:
            before = content[: match.start()]
            headings = re.findall(r"^#+ (.+)$", before, re.MULTILINE)
            name = str(page.relative_to(ROOT))
            results.append(Block(name, before.count("\n") + 1, headings[-1] if headings else "", match["text"]))
    return results


@dataclass(frozen=True)
class Command:
    """One command line of the documentation."""

    id: str
    words: tuple[str, ...]


def commands(program: str) -> list[Command]:
    """Every command line of ``program`` in bash blocks."""
    lines = [
        (block.id, line)
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    return _parsed(lines, program)


def commands_in_sentences(program: str) -> list[Command]:
    """Every code span of the text that begins with ``program`` and a verb; it may be incomplete."""
    spans = [
        (str(page.relative_to(ROOT)), span)
        for page in PAGES
        for span in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    ]
    return [command for command in _parsed(spans, program) if command.words and not command.words[0].startswith("-")]


def _parsed(lines: list[tuple[str, str]], program: str) -> list[Command]:
    parsed = [(where, shlex.split(line, comments=True)) for where, line in lines if line.startswith(f"{program} ")]
    return [Command(f"{where} {' '.join(words)}", tuple(words[1:])) for where, words in parsed]
