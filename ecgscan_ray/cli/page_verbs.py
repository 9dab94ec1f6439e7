"""The verbs on files of pages: read, find, draw, embed."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from typing import Annotated, Literal

import typer

from ecgscan_ray.cli.arguments import ConfigFile, Preset, Settings, Store, check_uri, load_settings, settings_options
from ecgscan_ray.cli.group import app
from ecgscan_ray.cli.output import print_next, print_skipped, setup_logging, show_progress
from ecgscan_ray.cores import set_torch_threads, usable_cores
from ecgscan_ray.errors import InputError

Pages = Annotated[
    list[str], typer.Argument(help="Pictures, PDF files, folders of them, or lists of them (@names.txt).")
]
Speed = Annotated[float | None, typer.Option(help="Paper speed of all pages, mm/s; else from the page.")]
Gain = Annotated[float | None, typer.Option(help="Gain of all pages, mm/mV; else from the page.")]
PageLayout = Annotated[str | None, typer.Option(help="Layout of all pages, e.g. 3x4+1; else from the page.")]
Workers = Annotated[int, typer.Option(help="Processes that read pages; 0 = one per core.", min=0)]


@app.command(epilog="Example: ecgscan digitise scans page.pdf @list.txt records")
def digitise(
    pages: Pages,
    out: Annotated[str, typer.Argument(help="Folder to write.")],
    speed: Speed = None,
    gain: Gain = None,
    layout: PageLayout = None,
    record_format: Annotated[Literal["wfdb", "csv", "npz"], typer.Option("--format", help="Of the records.")] = "wfdb",
    overlay: Annotated[bool, typer.Option(help="Write each page as a picture with the trace as read.")] = True,
    min_quality: Annotated[float, typer.Option(help="A page of a lower quality is refused.", min=0.0, max=1.0)] = 0.0,
    workers: Workers = 0,
) -> None:
    """Read paper ECGs (scans, photographs, PDF) into records in mV; the same command resumes. Paths or s3://..."""
    from ecgscan_ray.digitise import Options, digitise_pages, load_reader
    from ecgscan_ray.errors import WorkError

    for given in pages:
        check_uri(given.removeprefix("@"))
    with show_progress("files") as progress:
        done = digitise_pages(
            pages,
            check_uri(out),
            Options(speed, gain, layout, record_format, overlay, min_quality),
            workers=workers or usable_cores(),
            reader=load_reader,
            progress=progress,
        )
    print_skipped(done.problems, "not read", f"see the column 'reasons' of {done.table}")
    before = f" ({done.num_skipped} of them before)" if done.num_skipped else ""
    print(f"{done.read} pages read, {done.refused} refused, {done.failed} failed{before}: {out}")
    if not done.read:
        raise WorkError("no page was read", where=out, fix=f"The reasons are in the column 'reasons' of {done.table}.")
    print(f"next: pandas.read_csv({done.table!r})", file=sys.stderr)


@app.command(epilog="Example: ecgscan find scans page.pdf --in runs/demo-store --out found.csv")
def find(
    pages: Pages,
    store: Annotated[str, typer.Option("--in", help="URI of a prepared store; all its splits are searched.")],
    top: Annotated[int, typer.Option(help="Recordings of each page in the table.", min=1, max=100)] = 10,
    out: Annotated[str | None, typer.Option(help="CSV file to write: a row for each recording of each page.")] = None,
    speed: Speed = None,
    gain: Gain = None,
    layout: PageLayout = None,
    workers: Workers = 0,
) -> None:
    """Find the recording that each page shows among those of a store, or say that it is not there. Paths or s3://..."""
    from ecgscan_ray.digitise import Options, load_reader
    from ecgscan_ray.errors import WorkError
    from ecgscan_ray.evaluation.find import find_pages, table
    from ecgscan_ray.filesystem import write_bytes_atomic

    for given in pages:
        check_uri(given.removeprefix("@"))
    target = check_uri(out) if out else None
    set_torch_threads()
    results = []
    with show_progress("files") as progress:
        for result in find_pages(
            pages,
            check_uri(store),
            Options(speed, gain, layout),
            top=top,
            workers=workers or usable_cores(),
            reader=load_reader,
            progress=progress,
        ):
            results.append(result)
            if result.status != "not read":
                print(result.describe())
    if target:
        write_bytes_atomic(target, table(results).encode("utf-8", "backslashreplace"))
    problems = {result.name: result.reasons for result in results if result.status == "not read"}
    print_skipped(problems, "not read", "the table (--out) gives all reasons")
    identified, absent, undecided = (
        sum(result.status == status for result in results) for status in ("found", "not in the store", "cannot tell")
    )
    counts = f"{identified} pages found, {absent} not in the store, {undecided} undecided, {len(problems)} not read"
    print(counts, file=sys.stderr)
    if len(problems) == len(results):
        raise WorkError("no page was read", fix="The reasons are above.")


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
    truth: Annotated[bool, typer.Option(help="Write each page's ground truth as JSON.")] = True,
    masks: Annotated[bool, typer.Option("--masks", help="Write each page's trace mask as PNG.")] = False,
    grid: Annotated[bool, typer.Option("--grid", help="Write the grid's nodes into the ground truth too.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that draw; 0 = one per core.", min=0)] = 0,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Only one picture, sheet.png: every preset of effects.")
    ] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Render pages of a store as picture files with their ground truth, as in training."""
    from ecgscan_ray.config import Config
    from ecgscan_ray.filesystem import join, local_folder
    from ecgscan_ray.paper.write import OutputOptions, write_pages, write_sheet
    from ecgscan_ray.store.manifest import read_manifest
    from ecgscan_ray.store.shards import iterate_rows

    resolved, uri = load_settings(Config, preset, config, settings), check_uri(store)
    setup_logging()
    manifest, target = read_manifest(uri), check_uri(out)
    rows, log = iterate_rows(uri, manifest, split, limit=count), logging.getLogger("ecgscan_ray")
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
    print_next("pretrain", *settings_options(preset, config, settings), "--store", store, "--out", "runs/first")


@app.command(epilog="Example: ecgscan embed encoder my-scans embeddings.parquet --device cuda --workers 4")
def embed(
    encoder: Annotated[str, typer.Argument(help="Exported encoder, or a run folder.")],
    images: Annotated[str, typer.Argument(help="Folder of pictures, or one picture.")],
    out: Annotated[str, typer.Argument(help="Parquet file to write.")],
    projected: Annotated[bool, typer.Option("--projected", help="The aligned features, not the backbone's.")] = False,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where the encoder runs: cpu, cuda, cuda:1, ...; by default cpu, on a cluster also GPUs for one of pictures."
        ),
    ] = None,
    workers: Workers = 0,
    batch_size: Annotated[int, typer.Option(help="Pages per forward pass.", min=1)] = 32,
) -> None:
    """Embed every picture under a folder, or one picture, into one Parquet file; the same command resumes. Paths or s3://...

    With RAY_ADDRESS, as in every Ray job, the cluster's processes do the work; paths are then such that every node sees.
    """
    setup_logging()
    set_torch_threads()
    if os.environ.get("RAY_ADDRESS", "") not in ("", "local"):
        from ecgscan_ray.runtime.embed import embed as embed_on_cluster

        work = partial(embed_on_cluster, device=device, workers=workers or None)
    else:
        from ecgscan_ray.encoder import embed_folder

        work = partial(embed_folder, device=device or "cpu", workers=workers or usable_cores())
    with show_progress("files") as progress:
        result = work(
            check_uri(encoder),
            check_uri(images),
            check_uri(out),
            projected=projected,
            batch_size=batch_size,
            progress=progress,
        )
    print_skipped(result.errors)
    before = f" ({result.num_files_before} files were done before)" if result.num_files_before else ""
    print(f"{result.embedded} pages embedded, {len(result.errors)} skipped{before}: {out}")
    if not result.embedded:
        raise InputError("no page could be read", where=images, fix=f"The reasons are in the column 'error' of {out}.")
    print(f"next: pandas.read_parquet({out!r})", file=sys.stderr)
