"""Files that a library reads from memory, and what libraries say of those that they cannot read."""

from __future__ import annotations

from typing import BinaryIO

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.filesystem.archive import MAX_FILE_BYTES


def read_whole(file: BinaryIO, where: str, most: int = MAX_FILE_BYTES) -> bytes:
    """The content of a file of at most so many bytes.

    Raises:
        RecordingError: It has more (``too_large``).
    """
    content = file.read(most + 1)
    if len(content) > most:
        raise RecordingError(f"more than {most} bytes", reason="too_large", where=where)
    return content


def not_readable(where: str, kind: str, error: Exception) -> RecordingError:
    """The error (``format``) of a file that is not what it should be, with the first line of a library's own.

    Args:
        where: The file.
        kind: What it is not, e.g. ``readable as EDF``.
        error: The library's.
    """
    text = (str(error).splitlines() or [type(error).__name__])[0][:100]
    return RecordingError(f"not {kind} ({text})", reason="format", where=where)
