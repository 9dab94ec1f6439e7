"""A cluster of three nodes on one Linux machine: each has its own network, processes and /tmp, and an SSH server.

    python scripts/three_nodes.py up WORK       # makes the nodes and WORK/cluster.yaml, made from cluster/local.yaml
    ray up --yes WORK/cluster.yaml              # as on three machines; see cluster/README.md for tokens and jobs
    python scripts/three_nodes.py kill WORK 2   # node 2 is gone, with all that ran there
    python scripts/three_nodes.py start WORK 2  # it is back; Ray's autoscaler starts Ray there again over SSH
    python scripts/three_nodes.py down WORK     # removes all

Needs root, iproute2, util-linux, openssh and rsync. Node 0 is the head. With ``up --roles``, nodes 0 and 1 have the label
role=train, node 2 role=render. All nodes see this machine's files except /tmp, and each has a home in WORK.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
NODES = (0, 1, 2)
NETWORK, BRIDGE = "10.77.0", "ecgscan0"
ROLES = ("train", "train", "render")


def address(node: int) -> str:
    return f"{NETWORK}.{10 + node}"


def run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=None if check else subprocess.DEVNULL)


def up(work: Path, roles: bool) -> None:
    """Make bridge, keys, homes, nodes and the cluster file."""
    for tool in ("ip", "unshare", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd"):
        if not shutil.which(tool):
            sys.exit(
                f"error: '{tool}' is not installed; install iproute2, util-linux, openssh-client, openssh-server, rsync"
            )
    if os.geteuid() != 0:
        sys.exit("error: network namespaces need root")
    down(work)
    work.mkdir(parents=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    for key in ("host_key", "key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(work / key))
    shutil.copy(work / "key.pub", work / "authorized_keys")
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for node in NODES:
        start(work, node)
    (work / "cluster.yaml").write_text(yaml.safe_dump(cluster(work, roles), sort_keys=False))


def cluster(work: Path, roles: bool) -> dict:
    """``cluster/local.yaml`` with these addresses and keys; the environment of this Python stands in for setting one up."""
    text = (ROOT / "cluster" / "local.yaml").read_text()
    config = yaml.safe_load(text.replace("$HOME/venv/bin", str(Path(sys.executable).parent)))
    config["provider"] |= {"head_ip": address(0), "worker_ips": [address(node) for node in NODES[1:]]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(work / "key")}
    config["file_mounts"] = {
        target.replace("/home/ecgscan", "~"): str(ROOT) if source == "." else source
        for target, source in config["file_mounts"].items()
    }
    config["setup_commands"] = []
    if roles:
        cases = " ".join(f"{address(node)}) role={role};;" for node, role in enumerate(ROLES))
        find = f"case $(hostname -I | cut -d' ' -f1) in {cases} esac"
        for part in ("head_start_ray_commands", "worker_start_ray_commands"):
            config[part] = [c.replace("ray start ", f"{find}; ray start --labels=role=$role ") for c in config[part]]
    return config


def start(work: Path, node: int) -> None:
    """The node's namespaces and its SSH server, which is process 1 there: all ends with it."""
    name, home, outside = f"ecgscan-{node}", work / f"home-{node}", f"ecgscan-v{node}"
    home.mkdir(exist_ok=True)
    (work / f"sshd-{node}.conf").write_text(
        f"ListenAddress {address(node)}\nHostKey {work}/host_key\nAuthorizedKeysFile {work}/authorized_keys\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\nUsePAM no\nPidFile none\nMaxStartups 100\n"
    )
    run("ip", "netns", "add", name)
    run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
    run("ip", "link", "set", outside, "master", BRIDGE, "up")
    inside = ("ip", "-n", name)
    run(*inside, "addr", "add", f"{address(node)}/24", "dev", "eth0")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "route", "add", "default", "via", f"{NETWORK}.1")  # by which Ray finds the node's own address
    users = Path("/etc/passwd").read_text().splitlines(keepends=True)
    (work / f"passwd-{node}").write_text("".join(u.replace(":/root:", f":{home}:") for u in users))
    # torch's gloo listens where the host's name leads, and other nodes look for it there
    (work / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{address(n)} ecgscan-{n}\n" for n in NODES))
    own = f"mount --bind {work}/passwd-{node} /etc/passwd; mount --bind {work}/hosts /etc/hosts; hostname {name}"
    server = f"mount -t tmpfs tmpfs /tmp; {own}; exec /usr/sbin/sshd -D -f {work}/sshd-{node}.conf"
    with (work / f"node-{node}.log").open("ab") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
             "bash", "-c", server],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    (work / f"node-{node}.pid").write_text(str(process.pid))
    for _ in range(50):
        if subprocess.run([*ssh(work, node), "true"], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.2)
    sys.exit(f"error: node {node} does not answer; see {work}/node-{node}.log")


def ssh(work: Path, node: int) -> list[str]:
    """The command before what is to run on a node."""
    options = (
        "StrictHostKeyChecking=no",
        f"UserKnownHostsFile={work}/known_hosts",
        "LogLevel=ERROR",
        "ConnectTimeout=2",
    )
    return ["ssh", "-i", str(work / "key"), *(part for o in options for part in ("-o", o)), f"root@{address(node)}"]


def kill(work: Path, node: int) -> None:
    """Take the node away, as a machine that loses its power: no process ends by itself."""
    pid = work / f"node-{node}.pid"
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        pid.unlink()
    run("ip", "netns", "del", f"ecgscan-{node}", check=False)
    run("ip", "link", "del", f"ecgscan-v{node}", check=False)


def down(work: Path) -> None:
    """Remove nodes, bridge and folder."""
    for node in NODES:
        kill(work, node)
    run("ip", "link", "del", BRIDGE, check=False)
    shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("up", "kill", "start", "down"))
    parser.add_argument("work", type=Path)
    parser.add_argument("node", type=int, nargs="?", choices=NODES)
    parser.add_argument("--roles", action="store_true")
    given = parser.parse_args()
    work = given.work.resolve()
    if given.what == "up":
        up(work, given.roles)
    elif given.what == "down":
        down(work)
    elif given.node is None:
        parser.error("which node?")
    else:
        {"kill": kill, "start": start}[given.what](work, given.node)


if __name__ == "__main__":
    main()
