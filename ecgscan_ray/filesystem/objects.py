"""Objects of S3, each read by one request, with obstore.

pyarrow asks for an object's size before it reads: two requests for each of a million small files. boto3 sends one, and needs ten
times the processor time of obstore.
"""

from __future__ import annotations

import errno
import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import Any

import obstore
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store
from pyarrow import fs

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem import s3
from ecgscan_ray.filesystem.retry import NO_BUCKET, TooLarge, retried

_REQUEST_BYTES = 16 * 2**20
"""Larger objects are read in pieces, so that each request is answered in time."""
_CLIENT: Any = {"allow_http": True, "connect_timeout": "10s", "timeout": "30s"}
_ONCE: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}  # repeating is ours: bounded, and counted
_REDIRECT = re.compile("[Rr]edirect")
_BEYOND = re.compile("416 Range Not Satisfiable")


def open_objects(uri: str) -> Objects:
    """The objects below a URI, kept with their connections; errors as there."""
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
        self._uri, (self._bucket, _, prefix) = uri, uri.removeprefix("s3://").partition("/")
        with filesystem.explained(uri, "cannot be reached"):
            region = s3.s3_region() or fs.resolve_s3_region(self._bucket)
        options: dict[str, Any] = {"region": region, "skip_signature": True}
        if not s3.unsigned():
            options = {"region": region, "credential_provider": Boto3CredentialProvider(s3.aws_session())}
        if endpoint := s3.endpoint_and_region()[0]:
            options["endpoint"] = endpoint.geturl().rstrip("/")
        try:
            self._store = S3Store(
                self._bucket, prefix=prefix or None, client_options=_CLIENT, retry_config=_ONCE, **options
            )
        except (BaseError, ValueError) as error:
            raise StoreError(f"not usable as storage ({error})"[:200], where=uri) from None

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
        try:
            if limit is not None:
                return bytes(obstore.get_range(self._store, path, start=0, length=max(limit, 1)))[:limit]
            answer = obstore.get(self._store, path)
            size = answer.meta["size"]
            if most is not None and size > most:
                raise TooLarge(size)
            if size <= _REQUEST_BYTES:
                return bytes(answer.bytes())
            return self._in_pieces(path, size)
        except FileNotFoundError as error:
            if NO_BUCKET.search(str(error)):
                raise OSError(str(error)) from None
            raise
        except ValueError as error:  # a name that obstore does not take, with an empty folder or a line break in it
            raise FileNotFoundError(str(error)) from None
        except BaseError as error:
            return self._refused(str(error))

    def _in_pieces(self, path: str, size: int) -> bytes:
        starts = range(0, size, _REQUEST_BYTES)
        pieces = (obstore.get_range(self._store, path, start=at, end=min(at + _REQUEST_BYTES, size)) for at in starts)
        return b"".join(map(bytes, pieces))

    def _refused(self, text: str) -> bytes:
        """What an error of obstore means, in words that ``filesystem.retry`` knows."""
        if _BEYOND.search(text):  # a range of an object without bytes
            return b""
        if _REDIRECT.search(text):
            raise OSError(f"its bucket is located in '{self._region()}'")
        raise OSError(f"NETWORK_CONNECTION: {text}")

    def _region(self) -> str:
        try:
            answer = s3.s3_client().head_bucket(Bucket=self._bucket)
        except (BotoCoreError, ClientError) as error:
            answer = getattr(error, "response", {})
        return str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", "unknown"))
