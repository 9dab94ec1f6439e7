"""Options that several verbs share, and what becomes of them: URIs, presets, settings."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from ecgscan_ray.errors import InputError
from ecgscan_ray.uris import absolute

if TYPE_CHECKING:
    from ecgscan_ray.config import Section

    Kind = TypeVar("Kind", bound=Section)

Preset = Annotated[str | None, typer.Option(help="A preset that comes with the package; laptop where a run has none.")]
ConfigFile = Annotated[str | None, typer.Option("--config", help="A YAML file of settings, instead of a preset.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; can be repeated.")]
Store = Annotated[str, typer.Option(help="URI of a prepared store: a folder or s3://bucket/prefix.")]
StoreOfRun = Annotated[str | None, typer.Option(help="URI of the store, if it has moved since the run was trained.")]
Out = Annotated[str, typer.Option(help="URI of the folder to write (or to resume in).")]
Run = Annotated[str, typer.Argument(help="URI of a run folder.")]
Which = Annotated[Literal["best", "last"], typer.Option(help="Which checkpoint; best is by validation.score.")]
Trust = Annotated[
    list[str] | None,
    typer.Option(help="Python module whose code the settings (teacher.encoder.factory) may run; can be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Require an empty --out instead of resuming in it.")]


DEFAULT_PRESET = "laptop"


def preset_or_file(preset: str | None, config: str | None, default: str | None = DEFAULT_PRESET) -> str:
    """The preset or file that was given, else ``default``.

    Raises:
        InputError: Both were given, or neither where there is no default.
    """
    if preset is not None and config is not None:
        raise InputError("--preset and --config exclude each other", fix="Give one of the two.")
    name = preset if preset is not None else config
    if name is None and default is None:
        raise InputError("no settings", fix=f"Give --preset NAME or --config FILE. Presets: {_presets()}.")
    return name or default or ""


def _presets() -> str:
    from ecgscan_ray.config import preset_names

    return ", ".join(preset_names())


def settings_options(preset: str | None, config: str | None, settings: list[str] | None) -> list[str]:
    """The options that gave a command its settings, as words of a command line."""
    words = ["--config", config] if config is not None else ["--preset", preset or DEFAULT_PRESET]
    return words + [word for setting in settings or [] for word in ("--set", setting)]


def load_settings(
    kind: type[Kind],
    preset: str | None,
    config: str | None,
    settings: list[str] | None,
    default: str | None = DEFAULT_PRESET,
) -> Kind:
    """Settings from a preset or file, changed by ``--set``; else from ``default``, which is then named on stderr."""
    from ecgscan_ray.config import load

    resolved = load(kind, preset_or_file(preset, config, default), settings)
    if preset is None and config is None:
        print(f"settings: preset {default} (--preset NAME or --config FILE for others: {_presets()})", file=sys.stderr)
    return resolved


def check_uri(uri: str, fix: str = "Give an absolute path or s3://bucket/prefix.") -> str:
    """An argument as an absolute path or URI.

    Raises:
        InputError: The placeholder of the examples; or a relative path inside a Ray job, whose folder is deleted.
    """
    if uri.startswith("s3://BUCKET"):
        raise InputError("is the placeholder of the examples", where=uri, fix="Put the name of your bucket there.")
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "/runtime_resources/" in os.getcwd()
    if in_job and "://" not in uri and not os.path.isabs(os.path.expanduser(uri)):
        raise InputError("a relative path inside a Ray job, whose folder is a temporary copy", where=uri, fix=fix)
    return absolute(uri)


def trust_modules(modules: list[str] | None) -> None:
    """Allow these modules' code to run: only the command line can do so, never settings or the environment."""
    if modules:
        from ecgscan_ray.model.external import trust

        trust(modules)
