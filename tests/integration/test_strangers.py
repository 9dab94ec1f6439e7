"""Who has no token gets nothing from the cluster that a command starts: not over its ports, not over its files."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.verify

VICTIM = """
import json, sys
from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.runtime.cluster import start_ray
start_ray(ResourceConfig(local_cpus=2, object_store_mb=100))
import ray
ray.get(ray.remote(num_cpus=0)(lambda: 1).remote())
print(json.dumps({"gcs": ray.get_runtime_context().gcs_address, "pid": __import__("os").getpid()}), flush=True)
sys.stdin.read()
"""

STRANGER = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)
print("RAN", ray.get(ray.remote(num_cpus=0)(lambda: __import__("os").popen("printenv AWS_SECRET_ACCESS_KEY").read()).remote()))
"""

SECRET = "a-secret-of-the-victim"


@pytest.fixture(scope="module")
def victim() -> Iterator[dict[str, Any]]:
    """A process that has started its own Ray as every verb does, with a secret in its environment."""
    place = Path(tempfile.mkdtemp(prefix="ecgscan-", dir="/tmp"))
    place.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = clean | {"RAY_TMPDIR": str(place), "AWS_SECRET_ACCESS_KEY": SECRET, "HOME": str(place)}
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline()
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        yield {**json.loads(line), "family": family, "place": place}
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        shutil.rmtree(place, ignore_errors=True)


def dashboard(victim: dict[str, Any]) -> str:
    """Address of the victim's job server."""
    pattern = re.compile(r"--dashboard-port=(\d+)|--port=(\d+)")
    for process in victim["family"]:
        command = process.cmdline()
        if any(part.endswith("dashboard/dashboard.py") for part in command):
            port = next(m.group(1) or m.group(2) for part in command if (m := pattern.match(part)))
            return f"http://127.0.0.1:{port}"
    raise AssertionError("no dashboard")


def listening(victim: dict[str, Any]) -> list[str]:
    """All addresses where the victim's processes listen."""
    return [
        connection.laddr.ip
        for process in victim["family"]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_every_server_listens_on_loopback_alone(victim: dict[str, Any]) -> None:
    addresses = listening(victim)
    assert len(addresses) > 8
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def stranger(victim: dict[str, Any], **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "RAY_NUM_REDIS_GET_RETRIES": "1", **settings}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray takes 127.0.0.1 for another address
    command = [sys.executable, "-c", STRANGER, victim["gcs"]]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize(
    "settings",
    [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a"},
    ],
)
def test_a_stranger_runs_nothing(victim: dict[str, Any], settings: dict[str, str]) -> None:
    done = stranger(victim, **settings)
    assert done.returncode != 0
    assert "RAN" not in done.stdout and SECRET not in done.stdout + done.stderr
    assert "AuthenticationError" in done.stderr or "InvalidAuthToken" in done.stderr, done.stderr[-2000:]


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")
def test_another_user_of_the_machine_gets_nothing(victim: dict[str, Any]) -> None:
    made = Path(tempfile.gettempdir()) / f"ecgscan-stranger-{secrets.token_hex(4)}"
    job = json.dumps({"entrypoint": f"sh -c 'printenv AWS_SECRET_ACCESS_KEY > {made}'"})
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    request = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30"]
    for agent in ("curl", "Mozilla/5.0"):
        body = ["-X", "POST", "-H", "Content-Type: application/json", "-A", agent, "-d", job]
        for headers in ([], ["-H", "Host: evil.example"], ["-H", "Authorization: Bearer " + "f" * 64]):
            command = [*nobody, *request, *body, *headers, f"{dashboard(victim)}/api/jobs/"]
            status = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
            assert status in ("401", "403"), (agent, headers, status)
    assert not made.exists()
    closed = next(victim["place"].glob("ecgscan-*"))
    assert subprocess.run([*nobody, "ls", str(closed)], capture_output=True).returncode != 0
    assert subprocess.run([*nobody, "ls", str(victim["place"])], capture_output=True).returncode == 0


def test_the_token_is_in_no_command_line_and_in_no_file(victim: dict[str, Any]) -> None:
    token = next(t for p in victim["family"] if (t := p.environ().get("RAY_AUTH_TOKEN")))  # of its workers
    assert len(token) == 64
    assert all(token not in part for process in victim["family"] for part in process.cmdline())
    files = [path for path in victim["place"].rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    assert not [path for path in files if token.encode() in path.read_bytes()]
    assert not (victim["place"] / ".ray").exists()
