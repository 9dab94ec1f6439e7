"""URIs and paths from users, read in one way everywhere: a path, ``~``, ``file://``, or ``s3://bucket/prefix``.

A path is taken literally: blanks, ``#``, ``%`` and ``?`` stand for themselves. Only ``file://`` is percent-decoded,
as its standard says. A mistyped URI is refused and never becomes a folder called ``s3:``. So is every URI with
a credential in it; its error shows only the scheme.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from ecgscan_ray.errors import StoreError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NEARLY = re.compile(r"(s3[an]?|gs|gcs|abfss?|az|wasbs?|hdfs|viewfs|https?|file)(:|//)", re.IGNORECASE)
_FILE = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/.*)?", re.IGNORECASE | re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WITHOUT_SECRET = {"gs": ("anonymous",), "gcs": ("anonymous",)}
_NAMES_A_CONTAINER = ("abfs", "abfss", "hdfs", "viewfs", "wasb", "wasbs")
"""Here ``name@`` is a container or a user, and only ``name:...@`` a credential."""


def absolute(uri: str) -> str:
    """``uri`` such that it means the same in every process: an absolute path, or a URI without a slash at its end.

    Raises:
        StoreError: It is empty, mistyped, or carries a credential or parameters.
    """
    _refuse_unprintable(uri)
    if re.match("file:/", uri, re.IGNORECASE):
        return _file(uri)
    scheme = _SCHEME.match(uri)
    if scheme is not None:
        return _remote(scheme.group(1).lower(), uri[scheme.end() :])
    nearly = _NEARLY.match(uri)
    if nearly is not None:
        name = nearly.group(1).lower()
        fix = f"Write {name}://..., or ./{name}... for a path."
        raise StoreError("neither a URI nor a path", where=f"{nearly.group(0)}...", fix=fix)
    return _path(uri)


def is_local(uri: str) -> bool:
    """Whether ``uri`` is a path on this machine.

    Raises:
        StoreError: As ``absolute``.
    """
    return _SCHEME.match(absolute(uri)) is None


def _refuse_unprintable(uri: str) -> None:
    if not uri.strip():
        raise StoreError("an empty path", fix="Give a folder or s3://bucket/prefix.")
    try:
        uri.encode()
    except UnicodeEncodeError:
        where = uri.encode("utf-8", "backslashreplace").decode()
        raise StoreError("its name is not UTF-8", where=where, fix="Rename it.") from None
    if "\0" in uri:
        raise StoreError("its name has a zero byte", where=uri.replace("\0", "\\0"))


def _path(path: str) -> str:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        user = expanded.partition("/")[0]
        raise StoreError(f"no home folder of {user}", where=path, fix=f"For a folder of this name: ./{path}")
    return os.path.abspath(expanded)


def _file(uri: str) -> str:
    parts = _FILE.fullmatch(uri)
    host, path = (parts.group("host") or "", parts.group("path")) if parts else ("", None)
    if "@" in host:
        raise _credential("file")
    if path is None or host.lower() not in ("", "localhost"):
        fix = "A local file is file:///path/to/it."
        raise StoreError(f"names the machine '{host}', not a path on this one", where=uri, fix=fix)
    try:
        path = unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise StoreError("its name is not UTF-8", where=uri) from None
    _refuse_unprintable(path)
    return os.path.abspath(path)


def _remote(scheme: str, rest: str) -> str:
    """The URI of a bucket or a server; its scheme in small letters, single slashes."""
    server, _, path = rest.partition("/")
    if "?" in rest or _has_credential(scheme, rest if scheme != "s3" else server):
        raise _credential(scheme)
    path = "/".join(part for part in path.split("/") if part)
    if scheme == "s3":
        if not server:
            raise StoreError("names no bucket", where=f"s3://{rest}", fix="Write s3://bucket/prefix.")
        if not _BUCKET.fullmatch(server):
            raise StoreError("not the name of a bucket", where="s3://...", fix="Write s3://bucket/prefix.")
        if {".", ".."} & set(path.split("/")):
            raise StoreError(
                "a bucket has no folders '.' and '..'", where=f"s3://{rest}", fix="Write the whole prefix."
            )
    return f"{scheme}://{server}/{path}".rstrip("/")


def _has_credential(scheme: str, rest: str) -> bool:
    """Whether something before an ``@`` may be one; a key can have slashes in it."""
    user, at, _ = rest.rpartition("@")
    if not at or user in _WITHOUT_SECRET.get(scheme, ()):
        return False
    return ":" in user or ("/" not in user and scheme not in _NAMES_A_CONTAINER)


def _credential(scheme: str) -> StoreError:
    return StoreError(
        "a URI with a credential or parameters in it is not used, and not shown here",
        where=f"{scheme}://...",
        fix="Credentials belong in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), in a profile "
        "(~/.aws), or in a role of the machine.",
    )
