"""The verbs, one function each: load the settings, call one function, print what came of it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from ecgscan_ray.cli.arguments import (
    AsJson,
    ConfigFile,
    Fresh,
    Out,
    Preset,
    Run,
    Settings,
    Store,
    StoreOfRun,
    Trust,
    Which,
    check_uri,
    load_settings,
    preset_or_file,
    settings_options,
    trust_modules,
)
from ecgscan_ray.cli.group import app
from ecgscan_ray.cli.output import (
    first_names,
    format_estimate,
    print_mapping,
    print_next,
    setup_logging,
)
from ecgscan_ray.cores import set_torch_threads, usable_cores
from ecgscan_ray.errors import InputError


@app.command(epilog="Example: ecgscan prepare --source ptbxl --from ptb-xl-1.0.3 --to store --test-folds 10")
def prepare(
    source: Annotated[
        str,
        typer.Option(
            help="Kind of archive: ptbxl, mimic-iv-ecg, cinc2021, chapman, code15; folder for your own files."
        ),
    ],
    from_dir: Annotated[
        str,
        typer.Option(
            "--from",
            help="The archive: a folder (on a cluster, one that every node has mounted), s3://, gs:// or https://.",
        ),
    ],
    to: Annotated[str, typer.Option(help="URI of the store to write: a folder or s3://bucket/prefix.")],
    rate: Annotated[float, typer.Option(help="Sampling rate in the store, Hz; 0 keeps each recording's own.")] = 100,
    validation_folds: Annotated[list[int], typer.Option(help="Fold for validation; can be repeated.")] = [9],  # noqa: B006
    test_folds: Annotated[list[int], typer.Option(help="Fold for the test; can be repeated.")] = [10],  # noqa: B006
    limit: Annotated[int | None, typer.Option(help="At most this many recordings, chosen at random.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that is there.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Append to a store what it does not hold yet.")] = False,
) -> None:
    """Read an archive of recordings into a store of Parquet shards; the same command goes on where it stopped."""
    from ecgscan_ray.runtime.prepare import prepare as run

    setup_logging()
    manifest = run(
        source,
        check_uri(from_dir, fix="Give the absolute path of a folder that every node has mounted."),
        check_uri(to),
        rate=rate or None,
        validation_folds=validation_folds,
        test_folds=test_folds,
        limit=limit,
        overwrite=overwrite,
        add=add,
        progress=lambda done, total: logging.getLogger("ecgscan_ray").info("%d of %d recordings", done, total),
    )
    counts = {split: manifest.rows(split) for split in ("train", "validation", "test")}
    print_mapping({"store": to, "recordings": counts, "left out": manifest.quarantined or "none"}, as_json=False)
    print_next("inspect", to)


@app.command(epilog="Example: ecgscan inspect runs/demo-store --json")
def inspect(
    store: Annotated[str, typer.Argument(help="URI of a store.")],
    as_json: AsJson = False,
    html: Annotated[str | None, typer.Option(help="Also write a page with histograms and examples here.")] = None,
) -> None:
    """Check a store's shards against its manifest, and print its contents."""
    from ecgscan_ray.store.inspect import inspect as run

    summary = run(check_uri(store), workers=usable_cores())
    print_mapping(summary if as_json else {k: v for k, v in summary.items() if k != "histograms"}, as_json)
    if html:
        from ecgscan_ray.report.store import write_store_page

        write_store_page(store, summary, check_uri(html))
        print(html, file=sys.stderr)
    if unknown := summary["rows_without_patient"]:
        print(f"{unknown} recordings have no patient: the same patient may be in two splits", file=sys.stderr)
    if summary["damaged"]:
        raise InputError(
            f"damaged shards: {', '.join(summary['damaged'])}", where=store, fix="Prepare the store again."
        )
    print_next("pretrain", "--preset", "laptop", "--store", store, "--out", "runs/first")


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate time, memory and cost.")] = False,
    prices: Annotated[
        Path | None, typer.Option(help="With --dry-run: YAML file, 'H100: 3.5' and 'cpu: 0.04', prices an hour.")
    ] = None,
) -> None:
    """Pretrain on a store; the same command resumes an unfinished run."""
    from ecgscan_ray.config import Config

    if teacher and joint:
        raise InputError("--teacher and --joint exclude each other", fix="Give one of the two.")
    teacher_setting = [f"teacher.run={check_uri(teacher)}"] if teacher else ["teacher.run="] if joint else []
    resolved = load_settings(Config, preset, config, [*(settings or []), *teacher_setting])
    setup_logging()
    if dry_run:
        from ecgscan_ray.tasks.dry_run import dry_run as estimate
        from ecgscan_ray.tasks.prices import read_prices

        print_mapping(estimate(resolved, check_uri(store), read_prices(prices) if prices else None), as_json=False)
        print_next(
            "pretrain", *settings_options(preset, config, settings), "--store", store, "--out", out or "runs/first"
        )
        return
    if out is None:
        raise InputError("no --out", fix="Give the run folder to write, or --dry-run.")
    from ecgscan_ray.runtime.pretrain import pretrain as run

    trust_modules(trust)
    run(
        resolved,
        check_uri(store),
        check_uri(out),
        fresh=fresh,
        init_from=check_uri(init_from) if init_from else None,
    )
    print(f"run: {out}")
    print_next("evaluate", out)


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
    """Pretrain the signal-text teacher, without pages; the same command resumes an unfinished run."""
    from ecgscan_ray.config import Config
    from ecgscan_ray.runtime.pretrain import teach as run

    resolved = load_settings(Config, preset, config, settings)
    setup_logging()
    trust_modules(trust)
    run(
        resolved,
        check_uri(store),
        check_uri(out),
        fresh=fresh,
        init_from=check_uri(init_from) if init_from else None,
    )
    print(f"teacher: {out}")
    words = (*settings_options(preset, config, settings), "--store", store, "--teacher", out, "--out", "runs/first")
    print_next("pretrain", *words)


@app.command(epilog="Example: ecgscan rectifier --preset rectifier --store runs/demo-store --out runs/rectifier")
def rectifier(
    store: Store,
    out: Out,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    init_from: Annotated[
        str | None, typer.Option(help="Run of 'rectifier' whose weights this one starts from.")
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Train the networks that read pages of any kind; the same command resumes an unfinished run."""
    from ecgscan_ray.config import Config
    from ecgscan_ray.runtime.pretrain import pretrain as run

    resolved = load_settings(Config, preset, config, settings, default="rectifier")
    setup_logging()
    run(
        resolved,
        check_uri(store),
        check_uri(out),
        task="rectifier",
        fresh=fresh,
        init_from=check_uri(init_from) if init_from else None,
    )
    print(f"rectifier: {out}")


@app.command(epilog="Example: ecgscan evaluate runs/demo --set evaluation.bootstrap=200")
def evaluate(
    run: Run,
    store: StoreOfRun = None,
    which: Which = "best",
    settings: Settings = None,
    trust: Trust = None,
    every: Annotated[bool, typer.Option("--all", help="Print every figure, not only the headline ones.")] = False,
) -> None:
    """Measure a run on recordings it was not trained on; writes report.html and report.json into it."""
    from ecgscan_ray.config import parse_overrides
    from ecgscan_ray.report.evaluate import evaluate as work
    from ecgscan_ray.report.run import HEADLINE, by_reason

    setup_logging()
    set_torch_threads()
    changes = parse_overrides(settings or [])
    for key in changes:
        if not key.startswith("evaluation."):
            raise InputError("only evaluation.* can be set here", where=f"--set {key}")
    changes = {key.removeprefix("evaluation."): value for key, value in changes.items()}
    trust_modules(trust)
    figures = work(check_uri(run), store=check_uri(store) if store else None, which=which, settings=changes)
    missing = {name: str(figure["reason"]) for name, figure in figures.items() if "reason" in figure}
    measured = {name: figure for name, figure in figures.items() if name not in missing}
    for name in measured if every else HEADLINE:
        if name in measured:
            print(f"{name:<58} {format_estimate(measured[name])}")
    for reason, names in by_reason(missing).items():
        print(f"not measured: {first_names(names)}: {reason}")
    print(f"{run.rstrip('/')}/report.json  (all {len(measured)} figures; --all prints them)")
    print(f"{run.rstrip('/')}/report.html")
    print_next("export", run, "encoder")


@app.command(epilog="Example: ecgscan sweep --preset sweep-laptop --store runs/demo-store --out runs/sweep")
def sweep(
    store: Store,
    out: Out,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    fresh: Fresh = False,
) -> None:
    """Search a space of settings for the best; the same command resumes."""
    from ecgscan_ray.config import SweepConfig
    from ecgscan_ray.errors import WorkError
    from ecgscan_ray.runtime.sweep import sweep as run

    resolved = load_settings(SweepConfig, preset, config, settings, default=None)
    setup_logging()
    report = run(resolved, check_uri(store), check_uri(out), fresh=fresh)
    print(report["verdict"]["text"])
    print(f"{out.rstrip('/')}/report.html")
    if not report["best"]:
        why = next((f": {trial['error']}" for trial in report["trials"] if trial["error"]), "")
        raise WorkError(
            f"no trial finished{why}", where=out, fix="The report lists all. Fix the cause, and give another --out."
        )
    print(f"{out.rstrip('/')}/best.yaml  ({resolved.metric} {report['best']['score']:.4f})")
    print_next("pretrain", "--config", f"{out.rstrip('/')}/best.yaml", "--store", store, "--out", "runs/best")


@app.command(epilog="Example: ecgscan ablate --preset ablation-laptop --store runs/demo-store --out runs/ablation")
def ablate(
    store: Store,
    out: Out,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    fresh: Fresh = False,
) -> None:
    """Train named arms with several seeds and compare them on test patients; the same command resumes."""
    from ecgscan_ray.config import AblationConfig
    from ecgscan_ray.runtime.ablation import ablate as run

    resolved = load_settings(AblationConfig, preset, config, settings, default=None)
    setup_logging()
    print(run(resolved, check_uri(store), check_uri(out), fresh=fresh)["text"])
    print(f"{out.rstrip('/')}/report.html")


@app.command(epilog="Example: ecgscan export runs/demo encoder")
def export(
    run: Run,
    out: Annotated[str, typer.Argument(help="URI of the folder to write.")],
    which: Which = "best",
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write encoder.onnx, compared with torch.")] = False,
) -> None:
    """Write a run's encoder of pages as one folder that 'ecgscan embed' takes; of pictures, timm loads it too (local-dir:)."""
    from ecgscan_ray.encoder import export as work

    setup_logging()
    print(work(check_uri(run), check_uri(out), which=which, onnx=onnx))
    print_next("embed", out, "FOLDER_OF_PICTURES", "embeddings.parquet")


@app.command(epilog="Example: ecgscan config --preset laptop --set training.steps=200 > mine.yaml")
def config(
    key: Annotated[str | None, typer.Argument(help="With --explain: only this setting or section.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    explain: Annotated[bool, typer.Option("--explain", help="Unit, range, default and meaning of settings.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the resolved settings, or explain them; the names of all presets where none is given."""
    from ecgscan_ray.config import dump_yaml, kind_of, read_yaml
    from ecgscan_ray.config.reference import explain as explained

    if explain:
        print("\n\n".join(setting.text() for setting in explained(key)))
        return
    if key is not None:
        raise InputError(f"'{key}' without --explain", fix=f"ecgscan config --explain {key}")
    resolved = load_settings(kind_of(read_yaml(preset_or_file(preset, config))), preset, config, settings)
    print(resolved.model_dump_json(indent=1) if as_json else dump_yaml(resolved).rstrip())


@app.command(epilog="Example: ecgscan doctor --store s3://bucket/store")
def doctor(
    store: Annotated[str | None, typer.Option(help="Also try to reach this store.")] = None, as_json: AsJson = False
) -> None:
    """Check this machine: versions, cores, GPU, precision, OpenCV, Ray."""
    from ecgscan_ray.errors import WorkError
    from ecgscan_ray.runtime.doctor import examine

    findings, complaints = examine(check_uri(store) if store else None)
    print_mapping({**findings, "complaints": complaints or "none"}, as_json)
    if complaints:
        raise WorkError("; ".join(complaints))
    print_next("prepare", "--source", "folder", "--from", "FOLDER_OF_RECORDS", "--to", "store")
