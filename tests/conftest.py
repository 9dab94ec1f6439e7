"""What the whole suite shares: the shipped sample, one Ray cluster, one store, one S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.ports import free_port

if TYPE_CHECKING:
    from tests.processes import ProcessPool

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin on a busy machine take minutes for seconds
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

S3_BUCKET = "ecgscan-tests"
RAY_FIXTURES = {"ray_cluster", "alone"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if RAY_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("ray")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A command that gives torch all cores does so for its own test alone: later tests would wait for each other's threads."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped sample, unpacked as PhysioNet publishes it."""
    from ecgscan_ray.data.unpack import unpack_sample

    return unpack_sample(tmp_path_factory.mktemp("ptbxl"))


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str) -> Iterator[None]:
    """One Ray cluster for the whole suite: four logical CPUs, 400 MB of object store.

    It starts after the S3 server, so that its workers have the settings of that.
    """
    import ray

    from ecgscan_ray.config import ResourceConfig
    from ecgscan_ray.runtime.cluster import start_ray

    if os.environ.get("RAY_ADDRESS"):
        pytest.fail("RAY_ADDRESS is set: tests start a cluster of their own, so unset it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start_ray(ResourceConfig(local_cpus=4, object_store_mb=400))
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def sample_store(ray_cluster: None, sample_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A local store prepared from the whole sample."""
    from ecgscan_ray.data.unpack import TEST_FOLDS, VALIDATION_FOLDS
    from ecgscan_ray.runtime.prepare import prepare

    store = str(tmp_path_factory.mktemp("sample") / "store")
    prepare("ptbxl", str(sample_tree), store, validation_folds=VALIDATION_FOLDS, test_folds=TEST_FOLDS)
    return store


@pytest.fixture(scope="session")
def process_pool() -> Iterator[ProcessPool]:
    """Four processes that form process groups (gloo by default)."""
    from tests.processes import ProcessPool

    pool = ProcessPool(4)
    yield pool
    pool.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands read pages without networks; the file has a byte for each page that was read."""
    from ecgscan_ray import digitise
    from tests import fake_reader

    path = tmp_path_factory.mktemp("calls") / "calls"
    path.touch()
    monkeypatch.setenv(fake_reader.CALLS, str(path))
    monkeypatch.setattr(digitise, "load_reader", fake_reader.load)
    return path


@pytest.fixture
def alone() -> Iterator[None]:
    """Without the suite's own cluster: on one machine two clusters mistake each other's placement groups."""
    yield from without_cluster()


@pytest.fixture(scope="module")
def all_alone() -> Iterator[None]:
    """The same for all tests of a module."""
    yield from without_cluster()


def without_cluster() -> Iterator[None]:
    """Stop the suite's cluster, and start it again."""
    import ray

    from ecgscan_ray.config import ResourceConfig
    from ecgscan_ray.runtime.cluster import start_ray

    running = ray.is_initialized()
    ray.shutdown()
    yield
    if running:
        start_ray(ResourceConfig(local_cpus=4, object_store_mb=400))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3 server over HTTP (moto in a process of its own), named by the usual AWS variables.

    Yields:
        URI of a bucket, which tests share: each writes under a prefix of its own.
    """
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(endpoint, server)
        os.environ.update(settings)
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{S3_BUCKET}", method="PUT"), timeout=30)
        yield f"s3://{S3_BUCKET}"
    finally:
        server.terminate()
        server.wait(timeout=20)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _wait_for(endpoint: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5)
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError("moto's server did not start")
