"""Files that may be pictures, under folders and in lists, here or in a bucket."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from PIL import Image

from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem import absolute, explained, is_local, list_files, open_filesystem
from ecgscan_ray.paper.write import MASK_SUFFIX
from ecgscan_ray.pictures.picture import read_file, refuse_large

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class PictureFile:
    """A file that may be a picture.

    Attributes:
        root: Absolute path or URI of the folder.
        name: Relative to it, with ``/`` between folders.
    """

    root: str
    name: str

    @property
    def uri(self) -> str:
        """Absolute path or URI."""
        return os.path.join(self.root, self.name) if is_local(self.root) else f"{self.root}/{self.name}"

    def read(self) -> bytes:
        """Its content, of reasonable size.

        Raises:
            InputError: It is absent, cannot be read, is no regular file or too large.
        """
        if is_local(self.root):  # a name that is not UTF-8 is no URI, but can be read
            return read_file(self.uri)
        filesystem, path = open_filesystem(self.uri)
        with explained(self.uri, "cannot be read"), filesystem.open_input_file(path) as file:
            refuse_large(file.size(), self.uri)
            return file.read()


def pictures_under(uri: str, leave_out: str | None = None) -> list[PictureFile]:
    """Every file under a folder, sorted, or the one file that ``uri`` is.

    Left out are hidden files, Parquet files, and the ground truth that ``ecgscan render`` writes for a picture (JSON,
    masks). Linked folders are followed, each once.

    Args:
        uri: Path or URI.
        leave_out: A file or folder that is none of the pictures.

    Raises:
        InputError: There is no such folder or file, or it cannot be read.
    """
    uri = absolute(uri)
    if is_file(uri):
        folder, name = os.path.split(uri)
        return [PictureFile(folder, name)]
    names = _page_files(_local_files(uri) if is_local(uri) else list_files(uri, recursive=True))
    files = [PictureFile(uri, name) for name in names]
    return [file for file in files if leave_out is None or not f"{file.uri}/".startswith(f"{leave_out}/")]


def is_file(uri: str) -> bool:
    """Whether an absolute path or URI is anything but a folder."""
    if is_local(uri):
        return os.path.lexists(uri) and not os.path.isdir(uri)
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be read"):
        return filesystem.get_file_info(path).is_file


def _local_files(root: str) -> list[str]:
    """All files under a folder; linked folders are followed, each once.

    Uses ``os.walk``, since pyarrow stops at the first name that is not UTF-8. A folder that cannot be opened is listed, so
    that it gets a row with the reason.
    """
    if not os.path.isdir(root):
        raise InputError("no such folder or file", where=root)
    names: list[str] = []
    seen: set[str] = set()

    def unopened(error: OSError) -> None:
        names.append(os.path.relpath(error.filename, root))

    for folder, folders, files in os.walk(root, followlinks=True, onerror=unopened):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        names += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return names


def _page_files(names: list[str]) -> list[str]:
    """Names relative to a folder, sorted, without hidden files, earlier outputs and the ground truth of a picture."""
    paths = [PurePosixPath(name) for name in names]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    pictures = {path.with_suffix("") for path in paths if path.suffix.lower() in Image.registered_extensions()}

    def is_truth(path: PurePosixPath) -> bool:
        ending = next((end for end in (".json", MASK_SUFFIX) if path.name.endswith(end)), None)
        stem = path.name.removesuffix(ending) if ending else ""
        return bool(stem) and path.with_name(stem) in pictures

    return sorted(str(path) for path in paths if path.suffix.lower() != ".parquet" and not is_truth(path))


def printable_name(name: str) -> str:
    """A name with its control characters, and bytes that are not UTF-8, escaped."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), name)
