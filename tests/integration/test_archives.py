"""Archives where they lie: in a bucket, at an address of the web, and behind a server that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from ecgscan_ray import filesystem
from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.filesystem import listing, s3, web
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.runtime.prepare import prepare
from ecgscan_ray.store.manifest import SPLITS, read_manifest
from ecgscan_ray.store.shards import iterate_rows
from tests.failing_server import FailingServer
from tests.ports import free_port
from tests.records import heart_uv, write_record
from tests.stores import part_of_sample, upload

FOLDS = {"validation_folds": [8], "test_folds": [9]}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records in folders, a table, and what is no record."""
    folder = tmp_path_factory.mktemp("archive") / "in"
    for k in range(12):
        write_record(folder / f"p{k // 3}", f"r{k:02d}", heart_uv(seed=k))
    records = "".join(f"p{k // 3}/r{k:02d},{k // 3}\n" for k in range(12))
    (folder / "recordings.csv").write_text("record,patient_id\n" + records)
    (folder / ".hidden").mkdir()
    (folder / ".hidden/x.hea").write_text("x")
    (folder / "p0/._r00.hea").write_text("x")
    return folder


def publish(folder: Path, uri: str) -> str:
    """Upload for all the world to read."""
    upload(folder, uri)
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    for name in filesystem.list_files(uri, recursive=True):
        s3.s3_client().put_object_acl(Bucket=bucket, Key=f"{prefix}/{name}", ACL="public-read")
    return uri


@pytest.fixture
def failing(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    """The S3 server through a proxy; a test sets the share of requests that fail."""
    upstream = urlsplit(os.environ["AWS_ENDPOINT_URL"]).port
    assert upstream is not None
    server = FailingServer(free_port(), upstream, share=0.0, delay_s=0.2)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()


def test_files_of_a_bucket_are_those_of_the_folder(
    s3_server: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = ArchiveFiles(archive), ArchiveFiles(upload(archive, f"{s3_server}/archives/files"))
    headers = sorted(here.names((".hea",)))
    assert headers == sorted(there.names((".hea",))) and len(headers) == 12
    monkeypatch.setattr(listing, "MAX_DEPTH", 0)
    assert list(there.names((".csv",))) == ["recordings.csv"] == there.names_at_top()
    for path in (headers[0], "recordings.csv"):
        assert here.read(path) == there.read(path) and here.read(path, 9) == there.read(path, 9)
    with there.open("p0/r00.dat") as file:
        file.seek(24)
        assert file.read(24) == here.read("p0/r00.dat")[24:48]
        assert file.seek(-4, os.SEEK_END) == 24_000 - 4
    assert there.exists("p0") and there.exists(headers[0]) and not there.exists("p9")
    with pytest.raises(FileNotFoundError):
        there.open("p0/r99.dat")
    assert list(there.read_each(["p0/r99.hea", headers[0]])) == [None, here.read(headers[0])]
    with there.local([headers[0], "p0/r99.hea", "../../outside"]) as folder:
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["r00.hea"]
    with there.local([headers[0], "recordings.csv"], "p0") as again:
        assert again == folder, "folders are used again, and nothing stays in them"
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["r00.hea"] and (
            again / "r00.hea"
        ).exists()
    with here.local(headers) as folder:
        assert folder == archive


def test_pages_of_a_listing_that_fail_are_asked_for_again(failing: FailingServer, archive: Path) -> None:
    uri = upload(archive, "s3://ecgscan-tests/archives/pages")
    failing.share = 0.3
    names = sorted(ArchiveFiles(uri).names((".hea",)))
    assert names == sorted(ArchiveFiles(archive).names((".hea",)))


def rows(store: str) -> dict[str, tuple[str, bytes]]:
    manifest = read_manifest(store)
    return {
        row.id: (split, row.signal_mv.tobytes()) for split in SPLITS for row in iterate_rows(store, manifest, split)
    }


def test_from_a_bucket_to_a_bucket_through_faults(
    ray_cluster: None, failing: FailingServer, archive: Path, tmp_path: Path
) -> None:
    """Tasks reach the server itself; the driver goes through the proxy."""
    uri = upload(archive, "s3://ecgscan-tests/archives/faults")
    local = prepare("folder", str(archive), str(tmp_path / "store"))
    failing.share = 0.2
    store = "s3://ecgscan-tests/archives/faults-store"
    manifest = prepare("folder", uri, store)
    failing.share = 0.0
    assert failing.counts.total() > failing.counts["good"]
    assert manifest.digest() == local.digest()
    assert rows(store) == rows(str(tmp_path / "store"))
    assert not [name for name in filesystem.list_files(store, recursive=True) if name.startswith("_prepare")]


def test_from_an_address_of_the_web(ray_cluster: None, s3_server: str, sample_tree: Path, tmp_path: Path) -> None:
    """PTB-XL by its table; a folder of records cannot be listed there."""
    part_of_sample(sample_tree, tmp_path / "tree", 8)
    uri = publish(tmp_path / "tree", f"{s3_server}/archives/web")
    address = f"{os.environ['AWS_ENDPOINT_URL']}/{uri.removeprefix('s3://')}"
    local = prepare("ptbxl", str(tmp_path / "tree"), str(tmp_path / "local"), **FOLDS)
    manifest = prepare("ptbxl", address, str(tmp_path / "store"), **FOLDS)
    assert manifest.digest() == local.digest()
    with pytest.raises(InputError, match="cannot be listed"):
        prepare("folder", address, str(tmp_path / "other"))


@pytest.mark.parametrize("uri", ["s3://no-such-bucket-at-all/archive", "http://127.0.0.1:{port}/archive"])
def test_what_is_not_there_is_one_line(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setattr(web, "FIRST_CONTACT_S", 1.0)
    with pytest.raises(StoreError, match=r"no such bucket|its server does not answer") as caught:
        prepare("ptbxl", uri.format(port=free_port()), str(tmp_path / "store"), **FOLDS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_public_bucket_without_credentials(
    s3_server: str, archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = publish(archive, f"{s3_server}/archives/public")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert s3.unsigned()
    public = ArchiveFiles(uri)
    assert len(list(public.names((".hea",)))) == 12
    assert public.read("recordings.csv") == (archive / "recordings.csv").read_bytes()
