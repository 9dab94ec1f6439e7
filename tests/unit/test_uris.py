"""Places that a user can name: one meaning everywhere, and no credential in any of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem import exists, join, list_files, open_filesystem, read_bytes, write_bytes_atomic
from ecgscan_ray.uris import absolute, is_local


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("/data/store", "/data/store"),
        ("/data//store/", "/data/store"),
        ("~/store", "/home/someone/store"),
        ("file:///data/my%20store", "/data/my store"),
        ("file://localhost/data/%C3%BC%23", "/data/ü#"),
        ("FILE:///data", "/data"),
        ("file:/data", "/data"),
        ("/data/100%25 #1?.x", "/data/100%25 #1?.x"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket//a//b c#%20/", "s3://bucket/a/b c#%20"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("gs://anonymous@bucket/a", "gs://anonymous@bucket/a"),
        ("abfss://container@account.dfs.core.windows.net/a", "abfss://container@account.dfs.core.windows.net/a"),
        ("hdfs://user@host:8020/a", "hdfs://user@host:8020/a"),
        ("https://host/a@b", "https://host/a@b"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_each_spelling_has_one_meaning(uri: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert absolute(uri) == place == absolute(place)
    assert is_local(uri) == place.startswith("/")


def test_relative_paths_and_other_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("runs/../store") == str(tmp_path / "store")
    assert absolute("12:30-run") == str(tmp_path / "12:30-run")
    assert absolute("s3/run") == str(tmp_path / "s3" / "run")
    assert absolute("~root") == os.path.expanduser("~root")
    with pytest.raises(StoreError, match="no home folder of ~nobody-here"):
        absolute("~nobody-here/store")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3:/bucket/store", r"neither a URI nor a path\. Write s3://"),
        ("S3:/bucket", "neither a URI nor a path"),
        ("s3:bucket", "neither a URI nor a path"),
        ("s3//bucket", "neither a URI nor a path"),
        ("gs:/bucket", "neither a URI nor a path"),
        ("https:/host/x", "neither a URI nor a path"),
        ("file:store", "neither a URI nor a path"),
        ("file://store/x", "names the machine 'store'"),
        ("file:///%ff", "not UTF-8"),
        ("file:///a%00b", "zero byte"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://s3://bucket/x", "not the name of a bucket"),
        ("s3://b/../x", "no folders"),
        ("", "an empty path"),
        ("  ", "an empty path"),
        ("a\udce9", "not UTF-8"),
        ("a\0b", "zero byte"),
    ],
)
def test_what_only_looks_like_a_place_is_refused(
    uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (absolute, is_local, open_filesystem, exists, lambda place: write_bytes_atomic(place, b"")):
        with pytest.raises(StoreError, match=message):
            use(uri)
    assert not list(tmp_path.iterdir())


SECRETS = [
    "s3://AKID:HUSHHUSH@bucket/store",
    "s3://HUSHHUSH@bucket/store",
    "s3://AKID:HUSH/HUSHHUSH@bucket/store",
    "s3://AKID%3AHUSHHUSH%40bucket/store",
    "s3://bucket/store?access_key=AKID&secret_key=HUSHHUSH",
    "s3:AKID:HUSHHUSH@bucket/store",
    "S3:/AKID:HUSHHUSH@bucket",
    "abfs://:HUSHHUSH@account.blob.core.windows.net/c/store",
    "abfss://container:HUSHHUSH@account.dfs.core.windows.net/c",
    "abfs://:HUSH/HUSHHUSH==@account.blob.core.windows.net/c",
    "abfs://c@account.dfs.core.windows.net/x?sv=2024&sig=HUSHHUSH",
    "az://account/c?sig=HUSHHUSH",
    "hdfs://user:HUSHHUSH@127.0.0.1:1/store",
    "gs://HUSHHUSH@bucket/store",
    "gs://bucket/store?access_token=HUSHHUSH",
    "https://user:HUSHHUSH@host/store",
    "https://host/store?X-Amz-Signature=HUSHHUSH",
    "ftp://user:HUSHHUSH@host/store",
    "file://user:HUSHHUSH@host/store",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_a_credential_is_refused_and_not_shown(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for use in (absolute, open_filesystem, exists, list_files, lambda place: join(place, "x")):
        with pytest.raises(StoreError) as caught:
            use(uri)
        assert "HUSH" not in str(caught.value) and "AKID" not in str(caught.value)
        assert "\n" not in str(caught.value) and caught.value.exit_status == 2


def test_odd_names_reach_the_disk(tmp_path: Path) -> None:
    for name in ("a b", "50%", "100%25", "#1", "ü?x", "s3:"):
        write_bytes_atomic(join(str(tmp_path), name, "file.txt"), name.encode())
        assert read_bytes(join(str(tmp_path / name), "file.txt")) == name.encode()
        assert (tmp_path / name / "file.txt").is_file()
        assert list_files(str(tmp_path / name)) == ["file.txt"]
    write_bytes_atomic(join(f"file://{tmp_path}/with%20blank", "100%25.txt"), b"x")
    assert (tmp_path / "with blank" / "100%25.txt").is_file()


def test_odd_names_reach_the_bucket(s3_server: str) -> None:
    for name in ("a b", "50%", "100%25", "#1", "ü"):
        write_bytes_atomic(join(s3_server, "odd names", name, "file"), name.encode())
        assert read_bytes(join(s3_server, "odd names", name, "file")) == name.encode()
        assert list_files(join(s3_server, "odd names", name)) == ["file"]
