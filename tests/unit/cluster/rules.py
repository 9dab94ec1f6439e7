"""What the schemas of Ray and KubeRay leave out: each rule returns the complaints about a cluster file."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from typing import Any

import botocore.loaders
import botocore.model
import botocore.validate

# A Kubernetes label: an optional DNS prefix, then at most 63 of letters, digits, "-", "_", "."; ends are alphanumeric.
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}")
_LABEL_VALUE = re.compile(rf"(?:{_NAME})?")


def label_complaints(labels: dict[str, Any]) -> list[str]:
    """Keys and values that Ray and Kubernetes would refuse."""
    bad = [f"label key {key!r}" for key in labels if not _LABEL_KEY.fullmatch(str(key))]
    bad += [f"label value {value!r}" for value in labels.values() if not _LABEL_VALUE.fullmatch(str(value))]
    return bad + [f"label {key!r} belongs to Ray" for key in labels if str(key).startswith("ray.io/")]


def count_complaints(cluster: dict[str, Any]) -> list[str]:
    """Numbers of workers that contradict each other."""
    complaints, most = [], cluster.get("max_workers", 0)
    if most < 0:
        complaints.append(f"max_workers {most} is negative")
    total = 0
    for name, kind in cluster.get("available_node_types", {}).items():
        if name == cluster.get("head_node_type"):
            continue
        low, high = kind.get("min_workers", 0), kind.get("max_workers", most)
        total += high
        if low < 0 or high < 0:
            complaints.append(f"{name}: a negative number of workers")
        if low > high:
            complaints.append(f"{name}: min_workers {low} above max_workers {high}")
    if total > most:
        complaints.append(f"node types may have {total} workers, the cluster {most}")
    return complaints


def start_complaints(cluster: dict[str, Any]) -> list[str]:
    """Tokens on all nodes, a dashboard that only the head itself reaches."""
    complaints = []
    for part in ("head_start_ray_commands", "worker_start_ray_commands"):
        commands = [command for command in cluster.get(part, []) if "ray start" in command]
        if not commands:
            complaints.append(f"{part}: no ray start")
        if not all(re.search(r"\bRAY_AUTH_MODE=token\b", command) for command in commands):
            complaints.append(f"{part}: ray start without RAY_AUTH_MODE=token")
        if any(re.search(r"--(?:dashboard|ray-client-server)-host[= ](?!127\.0\.0\.1\b)", c) for c in commands):
            complaints.append(f"{part}: a dashboard that others reach")
    if not any(path.endswith("/.ray/auth_token") for path in cluster.get("file_mounts", {})):
        complaints.append("no token is copied to the nodes")
    return complaints


def head_complaints(cluster: dict[str, Any]) -> list[str]:
    """A head that schedules work."""
    head = cluster["available_node_types"][cluster["head_node_type"]]
    complaints = [] if head["resources"] == {"CPU": 0} else [f"the head offers {head['resources']}"]
    if "InstanceMarketOptions" in head["node_config"]:
        complaints.append("the head, where drivers live, is on spot")
    if not any("--num-cpus=0" in command for command in cluster["head_start_ray_commands"]):
        complaints.append("the head starts with CPUs")
    return complaints


def role_complaints(cluster: dict[str, Any]) -> list[str]:
    """Roles that training and rendering can be pinned to, with illegal labels named."""
    workers = {n: k for n, k in cluster["available_node_types"].items() if n != cluster["head_node_type"]}
    complaints = [
        f"{name}: {bad}" for name, kind in workers.items() for bad in label_complaints(kind.get("labels", {}))
    ]
    roles = {kind.get("labels", {}).get("role"): kind for kind in workers.values()}
    if set(roles) != {"train", "render"}:
        return [*complaints, f"roles {sorted(map(str, roles))}"]
    if not roles["train"]["resources"].get("GPU"):
        complaints.append("no GPU where the training is")
    if roles["render"]["resources"].get("GPU"):
        complaints.append("a GPU where the rendering is")
    return complaints


@functools.cache
def _run_instances() -> Any:
    service = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    return botocore.model.ServiceModel(service).operation_model("RunInstances").input_shape


def ec2_complaints(cluster: dict[str, Any]) -> list[str]:
    """Node configs against EC2's own shape of RunInstances, and what keeps an instance closed."""
    complaints = []
    for name, kind in cluster["available_node_types"].items():
        config = kind["node_config"]
        report = botocore.validate.ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, _run_instances())
        complaints += [f"{name}: {line}" for line in report.generate_report().splitlines()]
        if config.get("MetadataOptions", {}).get("HttpTokens") != "required":
            complaints.append(f"{name}: instance metadata without a token (IMDSv1)")
        if "Name" not in config.get("IamInstanceProfile", {}):
            complaints.append(f"{name}: no instance profile")
        spot = config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        if "GPU" in kind["resources"] and not spot:
            complaints.append(f"{name}: a GPU at the full price")
        if not config.get("SecurityGroupIds"):
            complaints.append(f"{name}: Ray makes a security group that lets SSH in from everywhere")
    if "security_group" in cluster["provider"]:
        complaints.append("Ray makes or changes a security group")
    return complaints


def kuberay_complaints(documents: list[dict[str, Any]]) -> list[str]:
    """What the operator refuses or leaves open, beyond the CRD's schema."""
    complaints = []
    clusters = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "RayCluster"}
    for name, spec in clusters.items():
        complaints += _cluster_complaints(name, spec)
        policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
        complaints += _policy_complaints(name, policies)
    for job in (d for d in documents if d["kind"] == "RayJob"):
        complaints += job_complaints(job, set(clusters))
    return complaints


def _cluster_complaints(name: str, spec: dict[str, Any]) -> list[str]:
    complaints, head = [], spec["headGroupSpec"]
    if spec.get("authOptions", {}).get("mode") != "token":
        complaints.append(f"{name}: no token")
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        complaints.append(f"{name}: the head offers CPUs")
    if head.get("serviceType", "ClusterIP") != "ClusterIP":
        complaints.append(f"{name}: the head is reachable from outside")
    sidecar = spec.get("autoscalerOptions", {})
    complaints += [f"autoscaler: {bad}" for bad in _container_complaints(sidecar)]
    if "/var/run/secrets/kubernetes.io/serviceaccount" not in {m["mountPath"] for m in sidecar.get("volumeMounts", [])}:
        complaints.append("autoscaler: cannot talk to Kubernetes")
    complaints += [f"head: {bad}" for bad in pod_complaints(head["template"]["spec"], sidecar)]
    for group in spec.get("workerGroupSpecs", []):
        complaints += [f"{group['groupName']}: {bad}" for bad in label_complaints(group.get("labels", {}))]
        low, now, high = group["minReplicas"], group.get("replicas", 0), group["maxReplicas"]
        if not 0 <= low <= now <= high:
            complaints.append(f"{group['groupName']}: replicas {low} <= {now} <= {high} does not hold")
        if "labels" in group.get("rayStartParams", {}):
            complaints.append(f"{group['groupName']}: labels belong beside rayStartParams, not in them")
        complaints += [f"{group['groupName']}: {bad}" for bad in pod_complaints(group["template"]["spec"])]
    return complaints


def _policy_complaints(name: str, policies: list[dict[str, Any]]) -> list[str]:
    """The cluster's pods take connections from chosen pods only."""
    mine = [p for p in policies if p["podSelector"].get("matchLabels") == {"ray.io/cluster": name}]
    if not any("Ingress" in policy.get("policyTypes", []) for policy in mine):
        return [f"{name}: no policy says who may reach its pods"]
    sources = [source for p in mine for rule in p.get("ingress", []) for source in rule.get("from", [{}])]
    open_to = [source for source in sources if not source.get("podSelector", {}).get("matchLabels")]
    return [f"{name}: its policy lets anybody in ({source})" for source in open_to]


def job_complaints(job: dict[str, Any], clusters: set[str]) -> list[str]:
    """Of one RayJob on one of the clusters."""
    spec, complaints = job["spec"], []
    chosen = spec.get("clusterSelector", {}).get("ray.io/cluster")
    if "rayClusterSpec" not in spec and chosen not in clusters:
        complaints.append(f"job on an unknown cluster {chosen}")
    if chosen and spec.get("backoffLimit"):
        complaints.append("the operator refuses backoffLimit together with clusterSelector")
    submitter = spec.get("submitterPodTemplate", {"spec": {"containers": [{}]}})
    if submitter.get("metadata", {}).get("labels") != {"ecgscan": "job-submitter"}:
        complaints.append("submitter: the cluster's policy keeps it out")
    return complaints + [f"submitter: {bad}" for bad in pod_complaints(submitter["spec"])]


def pod_complaints(pod: dict[str, Any], sidecar: dict[str, Any] | None = None) -> list[str]:
    """A pod that gives its processes more than they need, or mounts what it has not (its sidecar's mounts count)."""
    complaints, security = [], pod.get("securityContext", {})
    if pod.get("automountServiceAccountToken") is not False:
        complaints.append("a service account token for every process")
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        complaints.append("may run as root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        complaints.append("all system calls allowed")
    for container in pod["containers"]:
        complaints += _container_complaints(container)
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    mounts = {m["name"] for container in [*pod["containers"], sidecar or {}] for m in container.get("volumeMounts", [])}
    return complaints + [f"no volume {volume}" for volume in sorted(mounts - volumes)]


def _container_complaints(container: dict[str, Any]) -> list[str]:
    complaints, security = [], container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        complaints.append("may gain privileges")
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        complaints.append("keeps capabilities")
    if not {"cpu", "memory"} <= container.get("resources", {}).get("limits", {}).keys():
        complaints.append("no limits of cpu and memory")
    return complaints


def changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A deep copy in which the place at ``path`` holds ``value``; a value of ``...`` takes it out."""
    tree = copy.deepcopy(tree)
    node = tree
    for part in path[:-1]:
        node = node[part]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return tree


def strings(tree: Any) -> Iterator[str]:
    """Every string in a nested structure."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from strings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value)
    elif isinstance(tree, str):
        yield tree
