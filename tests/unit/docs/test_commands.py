"""Every command of the documentation is one that exists, with its options, settings and presets.

They are parsed by the real command line, which checks verbs, options, values and arguments; and their settings are resolved.
``tests/integration/test_documented_commands.py`` runs them.
"""

from __future__ import annotations

import re

import pytest
import typer

from ecgscan_ray.cli import app
from ecgscan_ray.config import kind_of, load, read_yaml
from tests.unit.docs.pages import PAGES, ROOT, Command, blocks, commands, commands_in_sentences

VERBS = typer.main.get_command(app).commands
ECGSCAN = commands("ecgscan")


def test_the_documentation_has_commands() -> None:
    assert len(ECGSCAN) >= 20 and len(commands("make")) >= 5


@pytest.mark.parametrize("command", ECGSCAN, ids=lambda command: command.id)
def test_every_command_is_understood(command: Command) -> None:
    verb, *arguments = command.words
    with VERBS[verb].make_context(verb, arguments) as context:
        values = context.params
    if values.get("preset"):
        load(kind_of(read_yaml(values["preset"])), values["preset"], list(values.get("settings") or []))


@pytest.mark.parametrize("command", commands_in_sentences("ecgscan"), ids=lambda command: command.id)
def test_options_named_in_a_sentence_exist(command: Command) -> None:
    verb, *arguments = command.words
    options = {name for parameter in VERBS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in arguments if word.startswith("--")} <= options


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands("make"):
        names = [word for word in command.words if not word.startswith("-") and "=" not in word]
        assert set(names) <= targets, command.id


def test_files_named_in_the_documentation_exist() -> None:
    named = re.compile(r"`((?:ecgscan_ray|docs|jobs|cluster|tests|benchmarks|tools|scripts)/[\w./-]+)`")
    missing = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in named.findall(page.read_text())
        if not (ROOT / name).exists()
    ]
    assert not missing


def test_jobs_of_the_documentation_are_those_of_verbs() -> None:
    text = "".join(block.text for page in PAGES for block in blocks(page, "bash")).replace("\\\n", " ")
    for verb, arguments in re.findall(r"python jobs/(\w+)\.py +(.*)", text):
        assert (ROOT / "jobs" / f"{verb}.py").exists()
        VERBS[verb].make_context(verb, arguments.split())
