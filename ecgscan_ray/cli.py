"""The command line: parse, load the config, call one function, print, leave with a status.

0 = good, 1 = failed work, 2 = bad input, 130 = interrupted. Everything heavy is imported inside the verb that needs it,
so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
import typer.core

from ecgscan_ray.cores import set_torch_threads, usable_cores
from ecgscan_ray.errors import EcgscanError, InputError
from ecgscan_ray.runtime import terminal
from ecgscan_ray.uris import absolute

if TYPE_CHECKING:
    from ecgscan_ray.config import Section

    Kind = TypeVar("Kind", bound=Section)


_INTERRUPTED = {
    "prepare": "no store was finished; the same command starts again",
    "inspect": "nothing was changed",
    "render": "the pages written so far are whole; the same command draws them all again",
    "pretrain": "the same command goes on from the last checkpoint",
    "teach": "the same command goes on from the last checkpoint",
    "evaluate": "no new report was written; the same command starts again",
    "sweep": "the same command goes on with the trials that are left",
    "embed": "no file was written; the same command starts again",
    "export": "nothing was exported; the same command starts again",
    "config": "nothing was changed",
    "doctor": "nothing was changed",
}
"""What Ctrl-C or SIGTERM in a verb means."""


class _CommandGroup(typer.core.TyperGroup):
    """Turns our errors into one line and an exit status, for every verb alike."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EcgscanError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_status)
        except KeyboardInterrupt:
            print(f"interrupted: {_INTERRUPTED[ctx.invoked_subcommand]}", file=sys.stderr)
            sys.exit(130)


app = typer.Typer(
    cls=_CommandGroup,
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
Out = Annotated[str, typer.Option(help="URI of the folder to write (or to go on in).")]
Run = Annotated[str, typer.Argument(help="URI of a run folder.")]
Which = Annotated[Literal["best", "last"], typer.Option(help="Which checkpoint; best is by validation.score.")]
Trust = Annotated[
    list[str] | None,
    typer.Option(help="Python module whose code the settings (teacher.encoder.factory) may run; can be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Insist on an empty --out instead of going on in it.")]


@app.command(epilog="Example: ecgscan prepare --source ptbxl --from ptb-xl-1.0.3 --to store --test-folds 10")
def prepare(
    source: Annotated[str, typer.Option(help="Kind of archive: ptbxl, or folder for one's own WFDB files.")],
    from_dir: Annotated[
        str, typer.Option("--from", help="Folder of the archive; on a cluster, one that every node has mounted.")
    ],
    to: Annotated[str, typer.Option(help="URI of the store to write: a folder or s3://bucket/prefix.")],
    rate: Annotated[float, typer.Option(help="Sampling rate in the store, Hz; 0 keeps each recording's own.")] = 100,
    validation_folds: Annotated[list[int], typer.Option(help="Fold for validation; can be repeated.")] = [9],  # noqa: B006
    test_folds: Annotated[list[int], typer.Option(help="Fold for the test; can be repeated.")] = [10],  # noqa: B006
    limit: Annotated[int | None, typer.Option(help="At most this many recordings, chosen at random.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that is there.")] = False,
) -> None:
    """Read an archive of recordings into a store of Parquet shards."""
    from ecgscan_ray.runtime.prepare import prepare as run

    _setup_logging()
    manifest = run(
        source,
        _check_uri(from_dir, fix="Give the absolute path of a folder that every node has mounted."),
        _check_uri(to),
        rate=rate or None,
        validation_folds=validation_folds,
        test_folds=test_folds,
        limit=limit,
        overwrite=overwrite,
        progress=lambda done, total: logging.getLogger("ecgscan_ray").info("%d of %d recordings", done, total),
    )
    counts = {split: manifest.rows(split) for split in ("train", "validation", "test")}
    _print_mapping({"store": to, "recordings": counts, "left out": manifest.quarantined or "none"}, as_json=False)
    _next("inspect", to)


@app.command(epilog="Example: ecgscan inspect runs/demo-store --json")
def inspect(store: Annotated[str, typer.Argument(help="URI of a store.")], as_json: AsJson = False) -> None:
    """Check a store's shards against its manifest, and say what is in it."""
    from ecgscan_ray.store.inspect import inspect as run

    found = run(_check_uri(store))
    _print_mapping(found, as_json)
    if unknown := found["rows_without_patient"]:
        what = "have no patient: whether one patient is in two splits is not known of them"
        print(f"{unknown} recordings {what}", file=sys.stderr)
    if found["damaged"]:
        raise InputError(f"damaged shards: {', '.join(found['damaged'])}", where=store, fix="Prepare the store again.")
    _next("pretrain", "--preset", "laptop", "--store", store, "--out", "runs/first")


@app.command(
    epilog="Example: ecgscan render --store runs/demo-store --out pages --preset laptop --set page.effects=photo"
)
def render(
    store: Store,
    out: Annotated[str, typer.Option(help="URI of the folder to write.")],
    count: Annotated[int, typer.Option(help="Recordings.", min=1)] = 12,
    views: Annotated[int, typer.Option(help="Different pages of each.", min=1)] = 1,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Of the store.")] = "train",
    image_format: Annotated[Literal["png", "jpg"], typer.Option("--format", help="Of the pictures.")] = "png",
    truth: Annotated[bool, typer.Option(help="Write each page's ground truth as JSON beside it.")] = True,
    masks: Annotated[bool, typer.Option("--masks", help="Write each page's trace mask as PNG beside it.")] = False,
    grid: Annotated[bool, typer.Option("--grid", help="Write the grid's nodes into the ground truth too.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that draw; 0 = one a core.", min=0)] = 0,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Only one picture, sheet.png: every preset of effects.")
    ] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Draw pages of a store as picture files with their ground truth, as the training sees them."""
    from ecgscan_ray.config import Config
    from ecgscan_ray.filesystem import join, local_folder
    from ecgscan_ray.paper.write import OutputOptions, write_pages, write_sheet
    from ecgscan_ray.store.manifest import read_manifest
    from ecgscan_ray.store.shards import iterate_rows

    resolved, place = _load(Config, preset, config, settings), _check_uri(store)
    _setup_logging()
    manifest, target = read_manifest(place), _check_uri(out)
    rows, log = iterate_rows(place, manifest, split, limit=count), logging.getLogger("ecgscan_ray")
    total = views * min(count, manifest.rows(split))
    with local_folder(target) as folder:
        files = OutputOptions(folder, image_format, truth, masks, views, grid)
        if sheet:
            paths = [write_sheet(rows, folder, resolved.page, resolved.seed)]
        else:
            paths = write_pages(
                rows,
                files,
                resolved.page,
                resolved.seed,
                workers=min(workers or usable_cores(), max(1, total // 16)),
                progress=lambda done: log.info("%d of %d pages", done, total),
            )
    for path in paths:
        print(join(target, path.name))
    _next("pretrain", *_settings_of(preset, config, settings), "--store", store, "--out", "runs/first")


@app.command(epilog="Example: ecgscan pretrain --preset laptop --store runs/demo-store --out runs/demo --set seed=1")
def pretrain(
    store: Store,
    out: Annotated[str | None, typer.Option(help="URI of the run folder to write (or to go on in).")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    teacher: Annotated[str | None, typer.Option(help="Finished run of 'teach' to align pages to, frozen.")] = None,
    joint: Annotated[bool, typer.Option("--joint", help="All towers train together (the default).")] = False,
    init_from: Annotated[str | None, typer.Option(help="Run whose weights this one starts from.")] = None,
    trust: Trust = None,
    fresh: Fresh = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
) -> None:
    """Pretrain on a store; the same command on an unfinished run goes on where it stopped."""
    from ecgscan_ray.config import Config

    if teacher and joint:
        raise InputError("--teacher and --joint exclude each other", fix="Give one of the two.")
    chosen = [f"teacher.run={_check_uri(teacher)}"] if teacher else ["teacher.run="] if joint else []
    resolved = _load(Config, preset, config, [*(settings or []), *chosen])
    _setup_logging()
    if dry_run:
        from ecgscan_ray.tasks.dry_run import dry_run as estimate

        _print_mapping(estimate(resolved, _check_uri(store)), as_json=False)
        _next("pretrain", *_settings_of(preset, config, settings), "--store", store, "--out", out or "runs/first")
        return
    if out is None:
        raise InputError("no --out", fix="Say where the run is to be written, or ask for --dry-run.")
    from ecgscan_ray.runtime.pretrain import pretrain as run

    _trust(trust)
    run(
        resolved,
        _check_uri(store),
        _check_uri(out),
        fresh=fresh,
        init_from=_check_uri(init_from) if init_from else None,
    )
    print(f"run: {out}")
    _next("evaluate", out)


@app.command(epilog="Example: ecgscan teach --preset laptop --store runs/demo-store --out runs/teacher")
def teach(
    store: Store,
    out: Out,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    init_from: Annotated[str | None, typer.Option(help="Teacher whose weights this one starts from.")] = None,
    trust: Trust = None,
    fresh: Fresh = False,
) -> None:
    """Pretrain the signal-text teacher, without pages; the same command on an unfinished run goes on."""
    from ecgscan_ray.config import Config
    from ecgscan_ray.runtime.pretrain import teach as run

    resolved = _load(Config, preset, config, settings)
    _setup_logging()
    _trust(trust)
    run(
        resolved,
        _check_uri(store),
        _check_uri(out),
        fresh=fresh,
        init_from=_check_uri(init_from) if init_from else None,
    )
    print(f"teacher: {out}")
    words = (*_settings_of(preset, config, settings), "--store", store, "--teacher", out, "--out", "runs/first")
    _next("pretrain", *words)


@app.command(epilog="Example: ecgscan evaluate runs/demo --set evaluation.bootstrap=200")
def evaluate(
    run: Run,
    store: StoreOfRun = None,
    which: Which = "best",
    settings: Settings = None,
    trust: Trust = None,
    every: Annotated[bool, typer.Option("--all", help="Print every figure, not only the first to look at.")] = False,
) -> None:
    """Measure a run on recordings it was not trained on; writes report.html and report.json into it."""
    from ecgscan_ray.config import parse_overrides
    from ecgscan_ray.report.evaluate import evaluate as work
    from ecgscan_ray.report.run import HEADLINE, by_reason

    _setup_logging()
    set_torch_threads()
    changes = parse_overrides(settings or [])
    for key in changes:
        if not key.startswith("evaluation."):
            raise InputError("only evaluation.* can be set here", where=f"--set {key}")
    changes = {key.removeprefix("evaluation."): value for key, value in changes.items()}
    _trust(trust)
    figures = work(_check_uri(run), store=_check_uri(store) if store else None, which=which, settings=changes)
    missing = {name: str(figure["reason"]) for name, figure in figures.items() if "reason" in figure}
    measured = {name: figure for name, figure in figures.items() if name not in missing}
    for name in measured if every else HEADLINE:
        if name in measured:
            print(f"{name:<58} {_format_estimate(measured[name])}")
    for reason, names in by_reason(missing).items():
        print(f"not measured: {_some(names)}: {reason}")
    print(f"{run.rstrip('/')}/report.json  (all {len(measured)} figures; --all prints them)")
    print(f"{run.rstrip('/')}/report.html")
    _next("export", run, "encoder")


@app.command(epilog="Example: ecgscan sweep --preset sweep-laptop --store runs/demo-store --out runs/sweep")
def sweep(
    store: Store,
    out: Out,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    fresh: Fresh = False,
) -> None:
    """Search the space of a sweep's config for the best, or compare its arms; the same command goes on."""
    from ecgscan_ray.config import SweepConfig
    from ecgscan_ray.errors import WorkError
    from ecgscan_ray.runtime.sweep import sweep as run

    resolved = _load(SweepConfig, preset, config, settings)
    _setup_logging()
    outcome = run(resolved, _check_uri(store), _check_uri(out), fresh=fresh)
    print(outcome["text"] if resolved.arms else outcome["verdict"]["text"])
    print(f"{out.rstrip('/')}/report.html")
    if resolved.arms:
        return
    if not outcome["best"]:
        why = next((f": {trial['error']}" for trial in outcome["trials"] if trial["error"]), "")
        raise WorkError(
            f"no trial finished{why}", where=out, fix="The report lists all. Mend the cause, and give another --out."
        )
    print(f"{out.rstrip('/')}/best.yaml  ({resolved.metric} {outcome['best']['score']:.4f})")
    _next("pretrain", "--config", f"{out.rstrip('/')}/best.yaml", "--store", store, "--out", "runs/best")


@app.command(epilog="Example: ecgscan embed encoder my-scans embeddings.parquet")
def embed(
    encoder: Annotated[str, typer.Argument(help="Exported encoder, or a run folder.")],
    images: Annotated[str, typer.Argument(help="Folder of pictures, or one picture.")],
    out: Annotated[str, typer.Argument(help="Parquet file to write.")],
    projected: Annotated[bool, typer.Option("--projected", help="The aligned features, not the backbone's.")] = False,
) -> None:
    """Embed every picture under a folder, or one picture, into one Parquet file. Places are paths or s3://..."""
    from ecgscan_ray.encoder import embed_folder

    set_torch_threads()

    done = embed_folder(_check_uri(encoder), _check_uri(images), _check_uri(out), projected=projected)
    _skipped(done.bad)
    print(f"{done.embedded} pages embedded, {len(done.bad)} skipped: {out}")
    if not done.embedded:
        raise InputError("no page could be read", where=images, fix=f"The reasons are in the column 'error' of {out}.")
    print(f"next: pandas.read_parquet({out!r})", file=sys.stderr)


def _skipped(bad: Mapping[str, str], most: int = 10) -> None:
    """The first of what was skipped; the output has all."""
    for name in list(bad)[:most]:
        print(f"skipped {name}: {bad[name]}", file=sys.stderr)
    if len(bad) > most:
        print(f"skipped {len(bad) - most} more; the column 'error' gives all reasons", file=sys.stderr)


@app.command(epilog="Example: ecgscan export runs/demo encoder")
def export(
    run: Run, out: Annotated[str, typer.Argument(help="URI of the folder to write.")], which: Which = "best"
) -> None:
    """Write a run's image encoder as a folder that timm loads (local-dir:) and 'ecgscan embed' takes."""
    from ecgscan_ray.encoder import export as work

    print(work(_check_uri(run), _check_uri(out), which=which))
    _next("embed", out, "FOLDER_OF_PICTURES", "embeddings.parquet")


@app.command(epilog="Example: ecgscan config --preset laptop --set training.steps=200 > mine.yaml")
def config(
    preset: Preset = None, config: ConfigFile = None, settings: Settings = None, as_json: AsJson = False
) -> None:
    """Print the resolved settings; without a preset or file, the names of all presets."""
    from ecgscan_ray.config import Config, SweepConfig, dump_yaml, preset_names, read_yaml

    if preset is None and config is None:
        if settings:
            _load(Config, preset, config, settings)  # says which of the two is missing
        print(json.dumps(preset_names()) if as_json else "\n".join(preset_names()))
        return
    kind: type[Section] = (
        SweepConfig if {"space", "arms"} & read_yaml(_preset_or_file(preset, config)).keys() else Config
    )
    resolved = _load(kind, preset, config, settings)
    print(resolved.model_dump_json(indent=1) if as_json else dump_yaml(resolved).rstrip())


@app.command(epilog="Example: ecgscan doctor --store s3://bucket/store")
def doctor(
    store: Annotated[str | None, typer.Option(help="Also try to reach this store.")] = None, as_json: AsJson = False
) -> None:
    """Look at this machine: versions, cores, GPU, arithmetic, OpenCV, Ray."""
    from ecgscan_ray.errors import WorkError
    from ecgscan_ray.runtime.doctor import examine

    findings, complaints = examine(_check_uri(store) if store else None)
    _print_mapping({**findings, "complaints": complaints or "none"}, as_json)
    if complaints:
        raise WorkError("; ".join(complaints))
    _next("prepare", "--source", "folder", "--from", "FOLDER_OF_RECORDS", "--to", "store")


def _preset_or_file(preset: str | None, config: str | None) -> str:
    """The preset or file that was asked for."""
    if preset is not None and config is not None:
        raise InputError("--preset and --config exclude each other", fix="Give one of the two.")
    name = preset if preset is not None else config
    if name is None:
        raise InputError("no settings", fix="Give --preset NAME or --config FILE; 'ecgscan config' lists the presets.")
    return name


def _settings_of(preset: str | None, config: str | None, settings: list[str] | None) -> list[str]:
    """The options that gave a command its settings."""
    words = ["--preset", preset] if preset is not None else ["--config", config or ""]
    return words + [word for setting in settings or [] for word in ("--set", setting)]


def _load(kind: type[Kind], preset: str | None, config: str | None, settings: list[str] | None) -> Kind:
    from ecgscan_ray.config import load

    return load(kind, _preset_or_file(preset, config), settings)


def _check_uri(uri: str, fix: str = "Give an absolute path or s3://bucket/prefix.") -> str:
    """An argument as an absolute path or URI.

    A placeholder is refused, and inside a Ray job a relative path: its folder is deleted.
    """
    if uri.startswith("s3://BUCKET"):
        raise InputError("is the placeholder of the examples", where=uri, fix="Put the name of your bucket there.")
    place = absolute(uri)
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "/runtime_resources/" in os.getcwd()
    if in_job and "://" not in uri and not os.path.isabs(os.path.expanduser(uri)):
        raise InputError("a relative path inside a Ray job, whose folder is a temporary copy", where=uri, fix=fix)
    return place


def _trust(modules: list[str] | None) -> None:
    """Never from settings or the environment: only who types the command can allow a module's code to run."""
    if modules:
        from ecgscan_ray.model.external import trust

        trust(modules)


def _format_estimate(figure: Mapping[str, Any]) -> str:
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "n/a"
    return f"{value:.4g}" + ("" if low is None or high is None else f"  ({low:.4g} to {high:.4g})")


def _some(names: list[str], count: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def _next(*words: str) -> None:
    """What comes next, as a command to copy; on stderr, so that output stays what other programs read."""
    print(f"next: ecgscan {shlex.join(words)}", file=sys.stderr)


def _print_mapping(content: Mapping[str, Any], as_json: bool) -> None:
    """Findings as JSON, or a line each."""
    if as_json:
        print(json.dumps(content, indent=1, default=str))
        return
    for key, value in content.items():
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            _print_mapping({f"{key}.{name}": part for name, part in value.items()}, as_json)
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        elif isinstance(value, list | tuple):
            value = ", ".join(str(part) for part in value)
        print(f"{key:<28} {value}")


def _setup_logging() -> None:
    """Log lines of the driver on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ecgscan_ray").setLevel(logging.INFO)


def main() -> None:
    """Entry point of ``ecgscan`` and of the jobs."""
    terminal.take()
    try:
        app(prog_name="ecgscan")
    except SystemExit as end:
        terminal.leave(int(end.code or 0))
        raise
