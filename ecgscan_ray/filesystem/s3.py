"""S3 by AWS's own variables: pyarrow's file system, and boto3's client for what pyarrow does not offer.

Settings come only from ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``, ``AWS_REGION`` or ``AWS_DEFAULT_REGION``,
``AWS_NO_SIGN_REQUEST``, and AWS's own chain of credentials (environment, profile, role of the machine). Nothing here prints or
keeps a credential.
"""

from __future__ import annotations

import os
import threading
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from pyarrow import fs

from ecgscan_ray.errors import StoreError

if TYPE_CHECKING:
    from boto3.session import Session

_CONNECTIONS = 32


def s3_filesystem(**options: Any) -> fs.S3FileSystem:
    """S3 as AWS's variables name it, without our retries; options are pyarrow's."""
    endpoint, region = endpoint_and_region()
    if endpoint:
        options |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    if region:  # without one, pyarrow asks AWS for the bucket's region
        options["region"] = region
    if unsigned():
        options["anonymous"] = True
    # A small file is one request. Uploads run in the thread that asks for them: Ray copies checkpoints in pyarrow's own
    # threads, and uploads waiting there for more of these threads would wait for ever (apache/arrow#32372).
    return fs.S3FileSystem(allow_delayed_open=True, background_writes=False, **options)


def endpoint_and_region() -> tuple[SplitResult | None, str | None]:
    """The server that AWS's variables name, without a password that may stand there, and the region.

    Raises:
        StoreError: What they name is no server; it is not shown.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not endpoint:
        return None, region
    fix = "Write https://host:port, without credentials."
    try:
        parts = urlsplit(endpoint if "//" in endpoint else f"https://{endpoint}")
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise StoreError("not the address of a server", where="AWS_ENDPOINT_URL", fix=fix)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]), region or "us-east-1"


def unsigned() -> bool:
    """Whether requests to S3 carry no signature: ``AWS_NO_SIGN_REQUEST=YES``, or there are no credentials.

    Public buckets are read so.
    """
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1"):
        return True
    return "AWS_ACCESS_KEY_ID" not in os.environ and _no_credentials(os.environ.get("AWS_PROFILE"))


@cache
def _no_credentials(profile: str | None) -> bool:
    """Whether AWS's chain finds none; asking the machine for its role takes seconds."""
    from boto3.session import Session

    try:
        return Session(profile_name=profile).get_credentials() is None
    except Exception:  # a profile that is not there: the request's own error says more
        return False


_making_client = threading.RLock()


def aws_variables() -> int:
    """The same number as long as AWS's variables are the same: what was made for them serves until then."""
    return hash(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))


def aws_session() -> Session:
    """boto3's session for AWS's variables as they are now; kept, since each reads megabytes of descriptions of services."""
    with _making_client:  # a session is for one thread at a time, what it makes is for many
        return _session(aws_variables())


@lru_cache(maxsize=1)
def _session(variables: int) -> Session:
    from boto3.session import Session

    return Session()


def s3_region() -> str | None:
    """The region that AWS's variables or profile name; with an endpoint there always is one.

    Raises:
        StoreError: The variables name no server.
    """
    return endpoint_and_region()[1] or aws_session().region_name


def s3_client(region: str | None = None) -> Any:
    """A boto3 client with the settings of ``open_filesystem``, for what pyarrow does not offer; kept as the session is.

    Args:
        region: Where it is known better.
    """
    with _making_client:
        return _client(aws_variables(), region)


@lru_cache(maxsize=4)
def _client(variables: int, region: str | None) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    endpoint, stated = endpoint_and_region()
    retries = {"mode": "standard", "total_max_attempts": 3}
    options = Config(
        connect_timeout=10,
        read_timeout=30,
        retries=retries,
        max_pool_connections=_CONNECTIONS,
        signature_version=UNSIGNED if unsigned() else None,
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return aws_session().client(
        "s3", endpoint_url=endpoint and endpoint.geturl(), region_name=region or stated, config=options
    )
