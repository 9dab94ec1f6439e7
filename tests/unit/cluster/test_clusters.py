"""Cluster files: each is accepted by the schema of its own tool, offline, and by our rules; broken copies are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.cluster import rules

JOB = 2
"""Place of the job among the documents of KubeRay's files; the cluster comes first, its policy second."""

FOLDER = Path(__file__).parents[3] / "cluster"
SCHEMA = jsonschema.Draft202012Validator(yaml.safe_load((Path(__file__).parent / "kuberay_schema.yaml").read_text()))


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture
def aws() -> dict[str, Any]:
    return read("cluster.yaml")


@pytest.fixture
def local() -> dict[str, Any]:
    return read("local.yaml")


@pytest.fixture
def kuberay() -> list[dict[str, Any]]:
    files = ("kuberay.yaml", "kuberay-job.yaml")
    documents = [document for name in files for document in yaml.safe_load_all((FOLDER / name).read_text())]
    return rules.changed(documents, (JOB, "metadata", "name"), "a-name")


def validate_by_ray(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def complaints(cluster: dict[str, Any]) -> list[str]:
    """All rules of a cluster in the cloud."""
    checks = (rules.count_complaints, rules.start_complaints, rules.head_complaints, rules.role_complaints)
    return [line for check in (*checks, rules.ec2_complaints) for line in check(cluster)]


@pytest.mark.parametrize("name", ["cluster.yaml", "local.yaml"])
def test_ray_accepts_the_file(name: str) -> None:
    validate_by_ray(read(name))


def test_the_cloud_cluster_keeps_the_rules(aws: dict[str, Any]) -> None:
    assert complaints(aws) == []


def test_own_machines_keep_the_rules(local: dict[str, Any]) -> None:
    assert rules.start_complaints(local) == []
    assert local["min_workers"] == local["max_workers"] == len(local["provider"]["worker_ips"])


NODES = "available_node_types"
TRAIN = (NODES, "train", "node_config")
BROKEN_AWS = {
    "negative": ((NODES, "train", "max_workers"), -1, "negative"),
    "min above max": ((NODES, "render", "min_workers"), 13, "min_workers 13 above"),
    "more than the cluster": (("max_workers",), 19, "may have 20 workers"),
    "illegal label": ((NODES, "train", "labels"), {"role": "train me"}, "label value 'train me'"),
    "label of Ray's": ((NODES, "train", "labels"), {"role": "train", "ray.io/x": "y"}, "belongs to Ray"),
    "no role": ((NODES, "render", "labels"), {"role": "rendering"}, "roles"),
    "head works": ((NODES, "head", "resources"), {"CPU": 4}, "the head offers"),
    "head on spot": ((NODES, "head", "node_config", "InstanceMarketOptions"), {"MarketType": "spot"}, "is on spot"),
    "no token": (("worker_start_ray_commands",), ["ray start --address=$RAY_HEAD_IP:6379"], "RAY_AUTH_MODE"),
    "token not copied": (("file_mounts",), {"/home/ubuntu/ecgscan": "."}, "no token is copied"),
    "open dashboard": (
        ("head_start_ray_commands",),
        ["RAY_AUTH_MODE=token ray start --head --num-cpus=0 --dashboard-host=0.0.0.0"],
        "others reach",
    ),
    "misspelt field": ((*TRAIN, "InstanceTypo"), "g6.8xlarge", "InstanceTypo"),
    "wrong type": ((*TRAIN, "BlockDeviceMappings"), "big", "BlockDeviceMappings"),
    "IMDSv1": ((*TRAIN, "MetadataOptions"), {"HttpTokens": "optional"}, "IMDSv1"),
    "no profile": ((*TRAIN, "IamInstanceProfile"), ..., "no instance profile"),
    "on demand": ((*TRAIN, "InstanceMarketOptions"), ..., "full price"),
    "no own group": ((*TRAIN, "SecurityGroupIds"), ..., "SSH in from everywhere"),
    "a group of Ray's": (("provider", "security_group"), {"GroupName": "ecgscan-ray"}, "Ray makes or changes"),
}


@pytest.mark.parametrize("name", BROKEN_AWS)
def test_a_broken_cloud_cluster_is_noticed(aws: dict[str, Any], name: str) -> None:
    path, value, message = BROKEN_AWS[name]
    found = complaints(rules.changed(aws, path, value))
    assert any(message in line for line in found), found


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5"])
def test_any_host_but_loopback_is_an_open_dashboard(local: dict[str, Any], host: str) -> None:
    for way in (f"--dashboard-host={host}", f"--dashboard-host {host}"):
        commands = [f"RAY_AUTH_MODE=token ray start --head {way}"]
        assert rules.start_complaints({**local, "head_start_ray_commands": commands})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("max_worker",), 3),
        (("head_node_type",), "hat"),
        ((NODES, "train", "resource"), {}),
        ((NODES, "train", "resources", "GPU"), "one"),
        ((NODES, "train", "labels", "role"), 1),
    ],
)
def test_rays_own_schema_notices_the_rest(aws: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(Exception, match=r".+"):
        validate_by_ray(rules.changed(aws, path, value))


def test_kuberays_schema_accepts_the_file(kuberay: list[dict[str, Any]]) -> None:
    SCHEMA.check_schema(SCHEMA.schema)
    assert [document["kind"] for document in kuberay] == ["RayCluster", "NetworkPolicy", "RayJob"]
    for document in kuberay:
        SCHEMA.validate(document)


HEAD = (0, "spec", "headGroupSpec")
GROUP = (0, "spec", "workerGroupSpecs", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((0, "apiVersion"), "ray.io/v1alpha1"),
        ((0, "spec", "authOption"), {"mode": "token"}),
        ((0, "spec", "authOptions", "mode"), "tokens"),
        (HEAD, ...),
        ((*HEAD, "rayStartParams", "num-cpus"), 0),
        ((*GROUP, "maxReplicas"), ...),
        ((*GROUP, "minReplicas"), "0"),
        ((*GROUP, "label"), {"role": "train"}),
        ((*GROUP, "template", "spec", "containers", 0, "resource"), {}),
        ((*GROUP, "template", "spec", "containers", 0, "resources", "limits", "memory"), "much"),
        ((*HEAD, "template", "spec", "automountServiceAccountTokens"), False),
        ((*HEAD, "template", "spec", "securityContext", "seccompProfile"), "RuntimeDefault"),
        ((*GROUP, "template", "spec", "containers", 0, "securityContext", "runAsNonroot"), True),
        ((0, "spec", "autoscalerOptions", "volumeMount"), []),
        ((1, "apiVersion"), "ray.io/v1"),
        ((1, "spec", "podSelectors"), {}),
        ((1, "spec", "ingress", 1, "ports", 0, "port"), 8265.5),
        ((JOB, "spec", "entryPoint"), "ecgscan"),
        ((JOB, "metadata", "name"), "Pretrain_1"),
    ],
)
def test_kuberays_schema_notices_a_broken_file(
    kuberay: list[dict[str, Any]], path: tuple[Any, ...], value: Any
) -> None:
    broken = rules.changed(kuberay, path, value)[path[0]]
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(broken)


def test_kubernetes_keeps_the_rules(kuberay: list[dict[str, Any]]) -> None:
    assert rules.kuberay_complaints(kuberay) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((0, "spec", "authOptions"), ..., "no token"),
        ((*HEAD, "rayStartParams"), {}, "the head offers CPUs"),
        ((*HEAD, "serviceType"), "LoadBalancer", "reachable from outside"),
        ((*GROUP, "replicas"), 9, "does not hold"),
        ((*GROUP, "minReplicas"), 1, "does not hold"),
        ((*GROUP, "labels"), {"role": "-train"}, "label value"),
        ((*GROUP, "rayStartParams"), {"labels": "role=train"}, "belong beside"),
        ((*GROUP, "template", "spec", "volumes"), [], "no volume shared-memory"),
        ((*HEAD, "template", "spec", "automountServiceAccountToken"), ..., "head: a service account token"),
        ((*GROUP, "template", "spec", "automountServiceAccountToken"), True, "train: a service account token"),
        ((*GROUP, "template", "spec", "securityContext"), {"runAsNonRoot": True}, "train: may run as root"),
        ((*GROUP, "template", "spec", "securityContext", "seccompProfile"), ..., "train: all system calls"),
        ((*GROUP, "template", "spec", "containers", 0, "securityContext"), ..., "train: may gain privileges"),
        ((*HEAD, "template", "spec", "containers", 0, "resources", "limits"), {"cpu": "4"}, "head: no limits"),
        ((0, "spec", "autoscalerOptions", "securityContext", "capabilities"), ..., "autoscaler: keeps capabilities"),
        ((0, "spec", "autoscalerOptions", "volumeMounts"), [], "autoscaler: cannot talk to Kubernetes"),
        ((*HEAD, "template", "spec", "volumes"), [], "head: no volume kubernetes-api"),
        ((1, "spec", "podSelector"), {"matchLabels": {"ray.io/cluster": "other"}}, "no policy says"),
        ((1, "spec", "policyTypes"), ["Egress"], "no policy says"),
        ((1, "spec", "ingress", 0, "from"), ..., "lets anybody in"),
        ((1, "spec", "ingress", 1, "from", 1, "podSelector"), {}, "lets anybody in"),
        ((JOB, "spec", "backoffLimit"), 2, "refuses backoffLimit"),
        ((JOB, "spec", "clusterSelector"), {"ray.io/cluster": "other"}, "unknown cluster"),
        ((JOB, "spec", "submitterPodTemplate", "metadata"), ..., "submitter: the cluster's policy keeps it out"),
        ((JOB, "spec", "submitterPodTemplate"), ..., "submitter: may run as root"),
    ],
)
def test_a_broken_kubernetes_file_is_noticed(
    kuberay: list[dict[str, Any]], path: tuple[Any, ...], value: Any, message: str
) -> None:
    found = rules.kuberay_complaints(rules.changed(kuberay, path, value))
    assert any(message in line for line in found), found


def test_kubernetes_refuses_the_job_until_it_has_a_name() -> None:
    assert "RayJob" not in (FOLDER / "kuberay.yaml").read_text()
    job = read("kuberay-job.yaml")
    with pytest.raises(jsonschema.ValidationError, match="NAME"):
        SCHEMA.validate(job)


@pytest.mark.parametrize("name", ["cluster.yaml", "local.yaml", "kuberay.yaml", "kuberay-job.yaml"])
def test_no_secret_is_written_down(name: str) -> None:
    for document in yaml.safe_load_all((FOLDER / name).read_text()):
        for text in rules.strings(document):
            assert "AKIA" not in text
            assert "RAY_AUTH_TOKEN=" not in text


def test_versions_in_the_files_are_those_of_the_package(kuberay: list[dict[str, Any]]) -> None:
    pins = dict(
        line.split("==") for line in (FOLDER.parent / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert kuberay[0]["spec"]["rayVersion"] == pins["ray"]
