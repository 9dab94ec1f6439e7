"""Objects of S3, each read by one request.

pyarrow asks for an object's size before it reads: two requests for each of a million small files. boto3 sends one, and needs
three times the processor time of these (signed by botocore, sent by urllib3).
"""

from __future__ import annotations

import errno
import os
import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from pyarrow import fs

from ecgscan_ray import filesystem
from ecgscan_ray.filesystem import s3
from ecgscan_ray.filesystem.retry import TooLarge, retried

_TIMEOUT = urllib3.Timeout(connect=10, read=30)
_ERROR_BYTES = 2**16
_CODE = re.compile(rb"<Code>(\w+)</Code>")


def open_objects(uri: str) -> Objects:
    """The objects below a URI, kept with their connections: making them takes as long as reading a hundred; errors as there."""
    return _objects(uri, s3.aws_variables())


@lru_cache(maxsize=4)
def _objects(uri: str, variables: int) -> Objects:
    return Objects(uri)


class Objects:
    """The objects below a URI, for many threads; settings and credentials are those of ``open_filesystem``.

    Args:
        uri: ``s3://bucket/prefix``.

    Raises:
        StoreError: The bucket is not there, or its server does not answer.
    """

    def __init__(self, uri: str) -> None:
        filesystem.open_filesystem(uri)  # a clear line where nobody answers
        self._uri, (bucket, _, prefix) = uri, uri.removeprefix("s3://").partition("/")
        with filesystem.explained(uri, "cannot be reached"):
            self._region = s3.s3_region() or fs.resolve_s3_region(bucket)
        client = s3.s3_client(self._region)
        address = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "-"})
        self._folder = address.partition("?")[0].removesuffix("-") + quote(f"{prefix}/" if prefix else "", safe="/~")
        self._credentials = None if s3.unsigned() else s3.aws_session().get_credentials()
        self._pool = urllib3.connectionpool.connection_from_url(
            self._folder, maxsize=s3.CONNECTIONS, timeout=_TIMEOUT, retries=False
        )

    def read(self, path: str, limit: int | None = None, most: int | None = None) -> bytes:
        """The content of an object, or its first ``limit`` bytes, with retries.

        Args:
            path: From the URI.
            limit: Further bytes are not asked for.
            most: A larger object is refused before its content is read.

        Raises:
            FileNotFoundError: There is none.
            TooLarge: It has more than ``most`` bytes.
            StoreError: The storage cannot be read.
        """
        where = f"{self._uri.rstrip('/')}/{path}"
        with filesystem.explained(where, "cannot be read"):
            try:
                return retried("read", lambda _: self._get(path, limit, most))
            except FileNotFoundError:
                pass  # outside the block, which would translate it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)

    def _get(self, path: str, limit: int | None, most: int | None) -> bytes:
        request = AWSRequest("GET", self._folder + quote(path, safe="/~"), {"Accept-Encoding": "identity"})
        if limit is not None:
            request.headers["Range"] = f"bytes=0-{max(limit, 1) - 1}"
        if self._credentials is not None:
            S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        try:
            answer = self._pool.urlopen(
                "GET",
                urlsplit(request.url).path,
                headers=dict(request.headers.items()),
                preload_content=False,
                decode_content=False,
            )
            return _content(answer, most)[:limit]
        except urllib3.exceptions.HTTPError as error:
            raise OSError(f"NETWORK_CONNECTION: {error}") from None


def _content(answer: urllib3.BaseHTTPResponse, most: int | None) -> bytes:
    """The body of an answer that has one.

    Raises:
        OSError: It says that something is wrong, in words that ``filesystem.retry`` knows.
        TooLarge: The body is.
    """
    if answer.status in (200, 206):
        size = int(answer.headers.get("Content-Length", 0))
        if most is not None and size > most:
            answer.close()
            raise TooLarge(size)
        return answer.read()
    code = _CODE.search(answer.read(_ERROR_BYTES))
    answer.close()
    return _refused(answer.status, code[1].decode() if code else "", answer.headers)


def _refused(status: int, code: str, headers: Any) -> bytes:
    if status == 416:  # a range of an object without bytes
        return b""
    if status == 404 and code != "NoSuchBucket":
        raise FileNotFoundError(code)
    if status in (401, 403):
        raise PermissionError(code)
    region = headers.get("x-amz-bucket-region")
    if status in (301, 307, 400) and region and code not in ("ExpiredToken", "SlowDown"):
        raise OSError(f"its bucket is located in '{region}'")
    raise OSError(f"HTTP status {status} {code}")
