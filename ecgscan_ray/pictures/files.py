"""Files that may be pictures, under folders and in lists, here or in a bucket."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from posixpath import splitext

from PIL import Image

from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem import absolute, explained, is_local, open_filesystem
from ecgscan_ray.paper.write import MASK_SUFFIX
from ecgscan_ray.pictures.picture import read_file, refuse_large

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file that may be a picture.

    Attributes:
        root: Absolute path or URI of the folder.
        name: Relative to it, with ``/`` between folders.
        listed_version: Of a file in a bucket, size and time of change as its listing gives them; else empty.
    """

    root: str
    name: str
    listed_version: str = ""

    @property
    def uri(self) -> str:
        """Absolute path or URI."""
        return os.path.join(self.root, self.name) if is_local(self.root) else f"{self.root}/{self.name}"

    def version(self) -> str:
        """Size and time of change; empty where they cannot be read."""
        if self.listed_version or not is_local(self.root):
            return self.listed_version
        try:
            status = os.stat(self.uri)
        except (OSError, ValueError):
            return ""
        return f"{status.st_size} bytes, {status.st_mtime_ns}"

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
        return [PictureFile(folder, name, "" if is_local(uri) else _version(uri))]
    versions = dict.fromkeys(_local_files(uri), "") if is_local(uri) else _listed(uri)
    files = [PictureFile(uri, name, versions[name]) for name in _page_files(versions)]
    return [file for file in files if leave_out is None or not f"{file.uri}/".startswith(f"{leave_out}/")]


def is_file(uri: str) -> bool:
    """Whether an absolute path or URI is anything but a folder."""
    if is_local(uri):
        return os.path.lexists(uri) and not os.path.isdir(uri)
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be read"):
        return filesystem.get_file_info(path).is_file


def _listed(uri: str) -> dict[str, str]:
    from ecgscan_ray.filesystem.listing import versions_below  # boto3 is for buckets alone

    return dict(versions_below(uri))


def _version(uri: str) -> str:
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be read"):
        info = filesystem.get_file_info(path)
    return f"{info.size} bytes, {info.mtime_ns}"


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


def _page_files(names: Iterable[str]) -> list[str]:
    """Names relative to a folder, sorted, without hidden files, earlier outputs and the ground truth of a picture."""
    visible = [name for name in names if "/." not in f"/{name}" and not name.lower().endswith(".parquet")]
    truths = {name: stem for name in visible if (stem := _stem_of_truth(name))}
    stems, endings = set(truths.values()), Image.registered_extensions()
    parts = (splitext(name) for name in visible) if stems else ()
    pictures = {stem for stem, ending in parts if stem in stems and ending.lower() in endings}
    return sorted(name for name in visible if truths.get(name) not in pictures)


def _stem_of_truth(name: str) -> str:
    """Of the picture whose ground truth a file may be; empty where its name is of another kind."""
    ending = next((end for end in (".json", MASK_SUFFIX) if name.endswith(end)), None)
    stem = name.removesuffix(ending) if ending else ""
    return "" if stem.endswith("/") else stem


def printable_name(name: str) -> str:
    """A name with its control characters, and bytes that are not UTF-8, escaped."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), name)
