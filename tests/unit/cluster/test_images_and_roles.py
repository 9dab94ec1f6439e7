"""The image, and what machines on AWS may do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def pinned(package: str) -> str:
    return re.findall(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]


def test_the_image_has_our_ray_and_stays_without_privileges() -> None:
    assert re.findall(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE) == [
        f"rayproject/ray:{pinned('ray')}-py311-${{FLAVOUR}}"
    ]
    assert not re.search(r"^USER|sudo|apt-get", DOCKERFILE, re.MULTILINE)


def test_what_the_image_copies_exists_and_is_sent_to_the_builder() -> None:
    sent = [
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    copied = [path for line in re.findall(r"^COPY \S+ (.*) \S+$", DOCKERFILE, re.MULTILINE) for path in line.split()]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / path).exists() for path in copied)


@pytest.mark.parametrize("name", ["iam-head", "iam-worker"])
def test_aws_takes_the_policy_and_it_allows_no_kind_of_action_as_a_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (CLUSTER / f"{name}.json").read_text()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with mock_aws():
        boto3.client("iam", region_name="us-east-1").create_policy(PolicyName=name, PolicyDocument=text)
    for statement in json.loads(text)["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions)
        reads = all(":Describe" in action for action in actions)
        assert statement["Resource"] != "*" or reads or "Condition" in statement, statement["Sid"]
