"""The command line: parse, load the config, call one function, print, leave with a status.

0 = good, 1 = failed work, 2 = bad input, 130 = interrupted. Everything heavy is imported inside the verb that needs it,
so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import typer.core

from ecgscan_ray.errors import EcgscanError, InputError

if TYPE_CHECKING:
    from ecgscan_ray.config import Section

    Kind = TypeVar("Kind", bound=Section)


class _Verbs(typer.core.TyperGroup):
    """Turns our errors into one line and an exit status, for every verb alike."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EcgscanError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_status)
        except KeyboardInterrupt:
            print("interrupted: the same command goes on where it stopped", file=sys.stderr)
            sys.exit(130)


app = typer.Typer(
    cls=_Verbs,
    help="Pretrain an image encoder for paper ECGs: prepare a store, pretrain on it, look at what was learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Preset = Annotated[str | None, typer.Option(help="A preset that comes with the package (see 'ecgscan config').")]
ConfigFile = Annotated[str | None, typer.Option("--config", help="A YAML file of settings, instead of a preset.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; can be repeated.")]
Store = Annotated[str, typer.Option(help="URI of a prepared store: a folder or s3://bucket/prefix.")]
StoreOfRun = Annotated[str | None, typer.Option(help="URI of the store, if it is not where the run was trained on.")]
Out = Annotated[str, typer.Option(help="URI of the folder to write: a folder or s3://bucket/prefix.")]
Run = Annotated[str, typer.Argument(help="URI of a run folder.")]
Which = Annotated[str, typer.Option(help="Which checkpoint: best (by validation.score) or last.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Insist on an empty --out instead of going on in it.")]


@app.command()
def prepare(
    source: Annotated[str, typer.Option(help="Kind of archive: ptbxl, wfdb or folder.")],
    from_dir: Annotated[str, typer.Option("--from", help="Folder (or s3://...) of the archive.")],
    to: Annotated[str, typer.Option(help="URI of the store to write.")],
    rate: Annotated[int, typer.Option(help="Which of the archive's sampling rates to read, Hz.")] = 100,
    validation_folds: Annotated[str, typer.Option(help="Folds for validation, e.g. 8 or 7,8.")] = "9",
    test_folds: Annotated[str, typer.Option(help="Folds for the test.")] = "10",
    limit: Annotated[int | None, typer.Option(help="At most this many recordings.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that is there.")] = False,
) -> None:
    """Read an archive of recordings into a store of Parquet shards.

    \b
    Example: ecgscan prepare --source ptbxl --from ptb-xl-1.0.3 --to store --validation-folds 9 --test-folds 10
    """
    from ecgscan_ray.runtime.prepare import prepare as run

    _talk()
    folds = {"validation_folds": _folds(validation_folds), "test_folds": _folds(test_folds)}
    run(source, _place(from_dir), _place(to), rate=rate, **folds, limit=limit, overwrite=overwrite)
    print(f"store: {to}")


@app.command()
def inspect(store: Annotated[str, typer.Argument(help="URI of a store.")], as_json: AsJson = False) -> None:
    """Check a store's shards against its manifest, and say what is in it.

    \b
    Example: ecgscan inspect runs/demo-store --json
    """
    from ecgscan_ray.store.inspect import inspect as run

    _show(run(_place(store)), as_json)


@app.command()
def render(
    store: Store,
    out: Out,
    count: Annotated[int, typer.Option(help="Pages.", min=1)] = 12,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Draw pages of a store as PNG files, as the training sees them.

    \b
    Example: ecgscan render --store runs/demo-store --out pages --preset laptop --set page.effects=photo
    """
    from ecgscan_ray.config import Config
    from ecgscan_ray.runtime.render import render as run

    written = run(_load(Config, preset, config, settings), _place(store), _place(out), count)
    print("\n".join(str(path) for path in written))


@app.command()
def pretrain(
    store: Store,
    out: Annotated[str | None, typer.Option(help="URI of the run folder to write (or to go on in).")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    init_from: Annotated[str | None, typer.Option(help="Run whose weights this one starts from.")] = None,
    fresh: Fresh = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
) -> None:
    """Pretrain on a store; the same command on an unfinished run goes on where it stopped.

    \b
    Example: ecgscan pretrain --preset laptop --store runs/demo-store --out runs/demo --set training.steps=200
    """
    from ecgscan_ray.config import Config

    resolved = _load(Config, preset, config, settings)
    if not dry_run and out is None:
        raise InputError("no --out", fix="Say where the run is to be written, or ask for --dry-run.")
    _talk()
    from ecgscan_ray.runtime import pretrain as runtime

    if dry_run or out is None:
        _show(runtime.dry_run(resolved, _place(store)), as_json=False)
        return
    start = _place(init_from) if init_from else None
    runtime.pretrain(resolved, _place(store), _place(out), fresh=fresh, init_from=start)
    print(f"run: {out}")


@app.command()
def evaluate(run: Run, store: StoreOfRun = None, which: Which = "best", settings: Settings = None) -> None:
    """Measure a run on patients it was not trained on; writes report.html and report.json into it.

    \b
    Example: ecgscan evaluate runs/demo --set evaluation.bootstrap=200
    """
    from ecgscan_ray.config import parse_overrides
    from ecgscan_ray.runtime.evaluate import evaluate as work

    _talk()
    changes = {}
    for key, value in parse_overrides(settings or []).items():
        section, _, name = key.partition(".")
        if section != "evaluation" or not name:
            raise InputError("only evaluation.* can be set here", where=f"--set {key}")
        changes[name] = value
    place = _place(store) if store else None
    figures = work(_place(run), store=place, which=_choice(which, "best", "last"), settings=changes)
    for name, figure in figures.items():
        print(f"{name:<58} {_figure(figure)}")
    for file in ("report.html", "report.json", "redrawn.png"):
        if "://" in run or Path(run, file).exists():
            print(f"{run.rstrip('/')}/{file}")


@app.command()
def sweep(
    store: Store,
    out: Out,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    fresh: Fresh = False,
) -> None:
    """Search the space of a sweep's config; writes a report and best.yaml. The same command goes on where it stopped.

    \b
    Example: ecgscan sweep --preset sweep-laptop --store runs/demo-store --out runs/sweep --set trials=4
    """
    from ecgscan_ray.config import SweepConfig
    from ecgscan_ray.runtime.sweep import sweep as run

    resolved = _load(SweepConfig, preset, config, settings)
    _talk()
    outcome = run(resolved, _place(store), _place(out), fresh=fresh)
    best = outcome["best"]
    print(f"best: {best['id']} ({resolved.metric} {best['score']:.4f})" if best else "best: no trial finished")
    print(outcome["verdict"]["text"])
    for file in ("best.yaml", "report.html", "report.json") if best else ("report.html", "report.json"):
        print(f"{out.rstrip('/')}/{file}")


@app.command()
def embed(
    encoder: Annotated[str, typer.Argument(help="Exported encoder, or a run folder.")],
    images: Annotated[str, typer.Argument(help="Folder of pictures.")],
    out: Annotated[str, typer.Argument(help="Parquet file to write.")],
    projected: Annotated[bool, typer.Option("--projected", help="The aligned features, not the backbone's.")] = False,
) -> None:
    """Embed every picture under a folder into one Parquet file.

    \b
    Example: ecgscan embed encoder my-scans embeddings.parquet
    """
    from ecgscan_ray.encoder import embed_folder

    done = embed_folder(_place(encoder), _place(images), _place(out), projected=projected)
    for name, reason in done.bad.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    print(f"{done.embedded} pages embedded, {len(done.bad)} files skipped: {out}")


@app.command()
def export(run: Run, out: Annotated[str, typer.Argument(help="Folder to write.")], which: Which = "best") -> None:
    """Write a run's image encoder as a folder that timm loads (local-dir:) and 'ecgscan embed' takes.

    \b
    Example: ecgscan export runs/demo encoder
    """
    from ecgscan_ray.encoder import export as work

    print(work(_place(run), _place(out), which=_choice(which, "best", "last")))


@app.command()
def config(preset: Preset = None, config: ConfigFile = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """Print the resolved settings, or the names of all presets.

    \b
    Example: ecgscan config --preset laptop --set training.steps=200 > mine.yaml
    """
    from ecgscan_ray.config import Config, SweepConfig, dump_yaml, preset_names, read_yaml

    if preset is None and config is None:
        print(json.dumps(preset_names()) if as_json else "\n".join(preset_names()))
        return
    searches = "space" in read_yaml(_named(preset, config))
    resolved: Section = _load(SweepConfig if searches else Config, preset, config, settings)  # type: ignore[type-var]
    print(resolved.model_dump_json(indent=1) if as_json else dump_yaml(resolved), end="\n" if as_json else "")


@app.command()
def doctor(
    store: Annotated[str | None, typer.Option(help="Also try to reach this store.")] = None, as_json: AsJson = False
) -> None:
    """Look at this machine: versions, cores, GPU, arithmetic, OpenCV, Ray.

    \b
    Example: ecgscan doctor --store s3://bucket/store
    """
    from ecgscan_ray.runtime.doctor import examine

    findings, complaints = examine(_place(store) if store else None)
    _show({**findings, "complaints": complaints} if as_json else findings, as_json)
    if complaints:
        raise InputError("; ".join(complaints))


def _named(preset: str | None, config: str | None) -> str:
    """The preset or file that was asked for."""
    if preset is not None and config is not None:
        raise InputError("--preset and --config exclude each other", fix="Give one of the two.")
    if preset is None and config is None:
        raise InputError("no settings", fix="Give --preset NAME or --config FILE; 'ecgscan config' lists the presets.")
    return str(preset if preset is not None else config)


def _load(kind: type[Kind], preset: str | None, config: str | None, settings: list[str] | None) -> Kind:
    from ecgscan_ray.config import load, preset_names

    name = _named(preset, config)
    if preset is not None and preset not in preset_names():
        from ecgscan_ray.errors import ConfigError, near_miss

        raise ConfigError(f"no preset named '{preset}'", fix=near_miss(preset, preset_names()))
    return load(kind, name, settings)


def _place(uri: str) -> str:
    """The path or URI as given; inside a Ray job a relative path is refused, since its folder is deleted afterwards."""
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "/runtime_resources/" in os.getcwd()
    if in_job and "://" not in uri and not os.path.isabs(uri):
        fix = "Give an absolute path or s3://bucket/prefix."
        raise InputError("a relative path inside a Ray job, whose folder is a temporary copy", where=uri, fix=fix)
    return uri


def _choice(value: str, *allowed: str) -> Any:
    if value not in allowed:
        raise InputError(f"'{value}' is none of {', '.join(allowed)}")
    return value


def _folds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise InputError(f"'{text}' is no list of folds", fix="Write e.g. 8 or 7,8.") from None


def _figure(figure: Mapping[str, Any]) -> str:
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "n/a"
    return f"{value:.4g}" + ("" if low is None or high is None else f"  ({low:.4g} to {high:.4g})")


def _show(content: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(content, indent=1, default=str))
        return
    for key, value in content.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        elif isinstance(value, list | tuple):
            value = ", ".join(str(part) for part in value)
        print(f"{key:<24} {value}")


def _talk() -> None:
    """Log lines of the driver on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ecgscan_ray").setLevel(logging.INFO)


def main() -> None:
    """Entry point of ``ecgscan`` and of the jobs."""
    app(prog_name="ecgscan")
