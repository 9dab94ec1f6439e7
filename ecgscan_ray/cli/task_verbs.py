"""The verbs of tasks: fine-tune for one, measure on all."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ecgscan_ray.cli.arguments import Fresh, Out, Run, Settings, StoreOfRun, Trust, Which, check_uri, trust_modules
from ecgscan_ray.cli.group import app
from ecgscan_ray.cli.output import first_names, format_estimate, print_next, setup_logging
from ecgscan_ray.cores import set_torch_threads


@app.command(epilog="Example: ecgscan finetune runs/demo --task superclass --out runs/superclass")
def finetune(
    run: Run,
    out: Out,
    task: Annotated[str, typer.Option(help="superclass, subclass, form, rhythm, labels (of the store), sex, ...")],
    store: StoreOfRun = None,
    share: Annotated[float, typer.Option(help="Share of the labelled training recordings.", min=0, max=1)] = 1.0,
    subset: Annotated[int, typer.Option(help="Number of the random subset of that share.", min=0)] = 0,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Control: random first weights instead of the run's.")
    ] = False,
    of: Annotated[
        Literal["pages", "recordings"], typer.Option("--input", help="recordings = control: no pages at all.")
    ] = "pages",
    lists: Annotated[str | None, typer.Option(help="Folder of published lists (cpsc2018, chapman).")] = None,
    settings: Settings = None,
    fresh: Fresh = False,
) -> None:
    """Train a run's encoder and a small head for classes; the same command resumes. 'export' writes it like any other."""
    from ecgscan_ray.config import parse_overrides
    from ecgscan_ray.runtime.finetune import FinetuneOptions
    from ecgscan_ray.runtime.finetune import finetune as work

    setup_logging()
    places = {name: check_uri(uri) if uri else None for name, uri in {"store": store, "lists": lists}.items()}
    options = FinetuneOptions(
        task,
        input=of,
        from_scratch=from_scratch,
        label_share=share,
        subset=subset,
        settings=parse_overrides(settings or []),
        fresh=fresh,
        **places,
    )
    thresholds = work(check_uri(run), check_uri(out), options)
    print(f"fine-tuned: {out}  ({len(thresholds)} classes: {first_names(list(thresholds))})")
    print_next("benchmark", run, "--finetuned", out, "--out", "runs/benchmark")


@app.command(epilog="Example: ecgscan benchmark runs/demo --suite ptbxl --out runs/demo-benchmark")
def benchmark(
    runs: Annotated[list[str], typer.Argument(help="URIs of run folders; all are compared with the first.")],
    out: Annotated[str, typer.Option(help="URI of the folder to write.")],
    suite: Annotated[str, typer.Option(help="Tasks: ptbxl, cpsc2018, chapman, or labels (of the store).")] = "ptbxl",
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task, e.g. superclass or labels; can be repeated.")
    ] = None,
    store: StoreOfRun = None,
    generic: Annotated[
        str | None, typer.Option(help="Control: folder of an image encoder as timm's save_for_hf writes it.")
    ] = None,
    finetuned: Annotated[
        list[str] | None, typer.Option(help="Run of 'finetune': of the first run, or a control; can be repeated.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="YAML or JSON file, class: wordings, for zero-shot instead of our prompts.")
    ] = None,
    lists: Annotated[str | None, typer.Option(help="Folder of published lists (cpsc2018, chapman).")] = None,
    which: Which = "best",
    limit: Annotated[int | None, typer.Option(help="At most this many recordings of each split.", min=1)] = None,
    resamples: Annotated[int, typer.Option(help="Resamples of patients behind each interval.", min=10)] = 1000,
    trust: Trust = None,
) -> None:
    """Measure runs and controls on the field's tasks; the same command resumes, and features are used again."""
    from ecgscan_ray.runtime.benchmark import BenchmarkOptions
    from ecgscan_ray.runtime.benchmark import benchmark as work

    setup_logging()
    set_torch_threads()
    trust_modules(trust)
    uris = {"store": store, "generic": generic, "prompts": prompts, "lists": lists}
    places = {name: check_uri(uri) if uri else None for name, uri in uris.items()}
    tuned = tuple(check_uri(uri) for uri in finetuned or ())
    options = BenchmarkOptions(
        suite, tuple(task or ()), finetuned=tuned, which=which, limit=limit, resamples=resamples, **places
    )
    figures = work([check_uri(run) for run in runs], check_uri(out), options)
    for name, figure in figures.items():
        if "reason" in figure:
            print(f"not measured: {name}: {figure['reason']}")
        elif name.count(".") == 2 and name.split(".")[1] in ("probe", "zero_shot", "page_to_text"):
            print(f"{name:<58} {format_estimate(figure)}")
    print(f"{out.rstrip('/')}/benchmark.html  (also .json, .csv, .tex)")
