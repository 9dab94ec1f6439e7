"""The encoding of a table, found out and checked before its rows are read, a piece at a time."""

from __future__ import annotations

import codecs
import io
import logging
from dataclasses import dataclass
from typing import BinaryIO

from ecgscan_ray.errors import InputError, printable
from ecgscan_ray.filesystem.archive import ArchiveFiles

logger = logging.getLogger(__name__)

_PIECE = 2**20
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SAVE = "Save it as 'CSV UTF-8', or state its encoding in recordings.yaml."


def open_text(archive: ArchiveFiles, name: str, encoding: str) -> io.TextIOWrapper:
    """A file of an archive as text, with its line ends as they are.

    Raises:
        InputError: There is none.
    """
    return io.TextIOWrapper(_open(archive, name), encoding=encoding, newline="")


def _open(archive: ArchiveFiles, name: str) -> BinaryIO:
    try:
        return archive.open(name)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=archive.uri(name)) from None


def encoding_by_mark(data: bytes) -> str:
    """What a byte order mark says, else UTF-8."""
    return next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "utf-8")


def checked_encoding(archive: ArchiveFiles, name: str, stated: str | None, latin_1: bool) -> str:
    """The encoding of a table, all of which has been decoded in it.

    Args:
        archive: In which it lies.
        name: Of the file, from the archive's root.
        stated: By the user.
        latin_1: Whether a file that cannot be UTF-8 and is text in Latin-1 is that; a line says so.

    Raises:
        InputError: It is in another one, or has a zero byte.
    """
    path = archive.uri(name)
    with _open(archive, name) as file:
        start = file.read(max(map(len, _MARKS)))
    encoding = stated or encoding_by_mark(start)
    fault, zero = _first_fault(archive, name, encoding)
    if fault:
        if encoding != "utf-8" or stated or not (latin_1 and _is_latin_1(archive, name)):
            raise _not_in(path, fault, encoding, stated)
        encoding = "latin-1"
        problem, example = "is not in UTF-8 and is read as Latin-1 (ISO 8859-1)", printable(fault.near)
        logger.warning(
            "%s %s, e.g. '%s'. If letters are wrong, state its encoding in recordings.yaml.", name, problem, example
        )
        _, zero = _first_fault(archive, name, encoding)
    if zero:
        raise InputError(f"a zero byte in line {zero}: damaged, or in another encoding", where=path, fix=_SAVE)
    return encoding


@dataclass(frozen=True)
class _Fault:
    """The first bytes that are not text: their position, line, the first of them, and what stands around."""

    position: int
    line: int
    byte: int
    near: str


def _first_fault(archive: ArchiveFiles, name: str, encoding: str) -> tuple[_Fault | None, int]:
    """What cannot be decoded, and the line of the first zero byte (0 = there is none)."""
    decoder = codecs.getincrementaldecoder(encoding)()
    position, lines, text_lines, zero = 0, 1, 1, 0
    with _open(archive, name) as file:
        while True:
            data = file.read(_PIECE)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                there, carried = error.object, len(error.object) - len(data)
                line = lines + there[carried : error.start].count(10)
                near = there[max(error.start - 10, 0) : error.start + 10].decode("latin-1")
                byte = there[min(error.start, len(there) - 1)]
                return _Fault(position - carried + error.start, line, byte, near), zero
            if not zero and "\0" in text:
                zero = text_lines + text.count("\n", 0, text.index("\0"))
            if not data:
                return None, zero
            position, lines, text_lines = position + len(data), lines + data.count(10), text_lines + text.count("\n")


def _is_latin_1(archive: ArchiveFiles, name: str) -> bool:
    """Text of one byte a letter: nothing in it is UTF-8 outside ASCII, and no byte is a control sign of Latin-1."""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    with _open(archive, name) as file:
        for data in iter(lambda: file.read(_PIECE), b""):
            if any(0x80 <= byte < 0xA0 for byte in set(data)) or not decoder.decode(data).isascii():
                return False
    return True


def _not_in(path: str, fault: _Fault, encoding: str, stated: str | None) -> InputError:
    position = f"byte 0x{fault.byte:02x} in line {fault.line}"
    names = {"utf-16": "UTF-16, as its first bytes state", "utf-8": "UTF-8"}
    name = f"{stated}, as recordings.yaml states" if stated else names[encoding.removesuffix("-sig")]
    fix = "Correct the encoding there." if stated else _SAVE
    return InputError(f"not in {name}: {position} (byte {fault.position} of the file)", where=path, fix=fix)
