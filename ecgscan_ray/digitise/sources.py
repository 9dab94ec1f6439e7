"""Which files hold the pages, and the name of each one's records."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem import absolute
from ecgscan_ray.pictures import PictureFile, is_file, pictures_under, printable_name

MAX_NAME = 100
"""Characters of a record's name, without the number of the page."""


@dataclass(frozen=True)
class Source:
    """A file of pages.

    Attributes:
        file: Where it is.
        name: As the table shows it: as it was given, or relative to the folder that was given.
        version: Size and time of change; empty where they cannot be read.
    """

    file: PictureFile
    name: str
    version: str = ""

    @property
    def uri(self) -> str:
        """Absolute path or URI."""
        return self.file.uri

    def versioned(self) -> Source:
        """With the version it has now."""
        return replace(self, version=self.file.version())


def find_sources(pages: Sequence[str], out: str = "") -> list[Source]:
    """Every file that was named, that lies in a folder that was named, or that a list names; each once.

    Args:
        pages: Files, folders with all their subfolders, and lists (``@names.txt``, one name a line, relative to the list).
        out: Absolute path or URI of the folder that is written, which is left out where it lies in one of the folders;
            empty = none is.

    Raises:
        InputError: Something named is not there, or nothing is left.
    """
    sources: dict[str, Source] = {}
    for given in pages:
        for source in _listed(given[1:], out) if given.startswith("@") else _under(given, out, given):
            sources.setdefault(source.uri, source)
    if not sources:
        raise InputError("no files here", where=", ".join(pages), fix="Give pictures, PDF files, or folders of them.")
    count = Counter(source.name for source in sources.values())
    return [
        source if count[source.name] == 1 else replace(source, name=printable_name(source.uri))
        for source in sources.values()
    ]


def _under(given: str, out: str, name: str) -> list[Source]:
    """The file, called by its name, or all files of the folder."""
    uri = absolute(given)
    if is_file(uri):
        return [Source(file, printable_name(name)) for file in pictures_under(uri)]
    if uri == out:
        raise InputError("is the folder of the pages", where=given, fix="Give another folder to write into.")
    inside = f"{out}/".startswith(f"{uri}/")
    return [Source(file, printable_name(file.name)) for file in pictures_under(uri, leave_out=out if inside else None)]


def _listed(given: str, out: str) -> list[Source]:
    """What a list names; an entry that is not there becomes a file that cannot be read."""
    folder, name = os.path.split(absolute(given))
    try:
        text = PictureFile(folder, name).read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("a list of names that is not UTF-8", where=f"@{given}") from None
    sources = []
    for line in text.splitlines():
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        uri = entry if "://" in entry or entry.startswith(("/", "~")) else f"{folder}/{entry}"
        try:
            named = _under(uri, out, entry)
        except InputError:
            named = []
        sources += named or [Source(PictureFile(*os.path.split(uri)), printable_name(entry))]
    return sources


def record_names(sources: Iterable[Source], taken: Mapping[str, str]) -> dict[str, str]:
    """URI of each source -> name of its records: letters, digits, ``_`` and single ``-``.

    A name is the file's stem where no other file has it, else its path, else it ends in a digest. Upper and lower case do
    not tell two names apart.

    Args:
        sources: All of a run.
        taken: URI -> name of files whose records are there already; they keep it.
    """
    files = [source.file for source in sources]
    names = {file.uri: taken[file.uri] for file in files if file.uri in taken}
    used = {name.lower() for name in taken.values()}
    open_files = files
    choices: tuple[Callable[[PictureFile], str], ...] = (
        lambda file: _safe(os.path.splitext(os.path.basename(file.name))[0]),
        lambda file: _safe(os.path.splitext(file.name)[0]),
        lambda file: _safe(file.name),
    )
    for choice in choices:
        wanted = {file.uri: choice(file) for file in open_files}
        count = Counter(name.lower() for name in wanted.values())
        rest = []
        for file in open_files:
            name = wanted[file.uri]
            is_new = file.uri not in names
            if count[name.lower()] > 1 or not name or (is_new and name.lower() in used):
                rest.append(file)
            elif is_new:
                names[file.uri] = name
                used.add(name.lower())
        open_files = rest
    for file in open_files:
        if file.uri not in names:
            digest = hashlib.sha256(os.fsencode(file.uri)).hexdigest()
            stem = choices[0](file)[: MAX_NAME - 20] or "page"
            names[file.uri] = next(n for size in range(8, 65) if (n := f"{stem}-{digest[:size]}").lower() not in used)
            used.add(names[file.uri].lower())
    return names


def page_name(name: str, page: int) -> str:
    """Name of the record of one page, counted from 1; ``--`` is in no file's name."""
    return name if page == 1 else f"{name}--{page}"


def page_label(file: str, page: int) -> str:
    """How a page is called in messages: ``scan.tif``, ``scan.tif#2``."""
    return f"{file}#{page}" if page > 1 else file


def file_name(name: str, page: int) -> str:
    """The name of a file's records, from that of one of its pages: the inverse of ``page_name``."""
    return name if page == 1 else name.removesuffix(f"--{page}")


def _safe(text: str) -> str:
    """A name in plain letters; empty where nothing is left or it is too long."""
    plain = unicodedata.normalize("NFKD", text.replace("/", "_").replace("ß", "ss"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    name = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-_")
    return name if len(name) <= MAX_NAME else ""
