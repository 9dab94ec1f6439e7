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
    found = []
    for match in _BLOCK.finditer(content):
        if match["language"] == language:
            before = content[: match.start()]
            headings = re.findall(r"^#+ (.+)$", before, re.MULTILINE)
            name = str(page.relative_to(ROOT))
            found.append(Block(name, before.count("\n") + 1, headings[-1] if headings else "", match["text"]))
    return found


@dataclass(frozen=True)
class Command:
    """One command line of the documentation."""

    id: str
    words: tuple[str, ...]


def commands(program: str) -> list[Command]:
    """Every command line of ``program`` in bash blocks and in code spans of more than two words."""
    lines = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            lines += [(block.id, line) for line in block.text.replace("\\\n", " ").splitlines()]
        if page.name != "CHANGELOG.md":
            spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
            lines += [(str(page.relative_to(ROOT)), span) for span in spans if len(span.split()) > 2]
    parsed = [(where, shlex.split(line, comments=True)) for where, line in lines if line.startswith(f"{program} ")]
    return [Command(f"{where} {' '.join(words)}", tuple(words[1:])) for where, words in parsed]
