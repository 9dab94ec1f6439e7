"""What holds for every verb: errors in one line, exit statuses, ``--version``, and the entry point."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
import typer.core

from ecgscan_ray import __version__
from ecgscan_ray.errors import EcgscanError, InputError
from ecgscan_ray.runtime import terminal

INTERRUPTED = {
    "prepare": "the store is not finished; the same command goes on",
    "inspect": "nothing was changed",
    "render": "the pages written so far are complete; the same command draws all of them again",
    "pretrain": "the same command goes on from the last checkpoint",
    "teach": "the same command goes on from the last checkpoint",
    "rectifier": "the same command goes on from the last checkpoint",
    "finetune": "the same command goes on from the last checkpoint",
    "evaluate": "no new report was written; the same command starts again",
    "benchmark": "no report was written; the features so far are kept, and the same command goes on",
    "sweep": "the same command goes on with the remaining trials",
    "ablate": "the same command goes on with the remaining trials",
    "embed": "no file was written; the parts made so far are kept, and the same command goes on",
    "digitise": "the pages read so far are complete; the same command goes on with the others",
    "find": "no table was written; the same command starts again",
    "export": "nothing was exported; the same command starts again",
    "config": "nothing was changed",
    "doctor": "nothing was changed",
}
"""What Ctrl-C or SIGTERM in a verb means."""

TRAIN_MODULES = frozenset({"ray", "optuna", "psutil", "sklearn", "tensorboardX", "transformers"})
"""Modules of the extra ``train``, which the small installation lacks."""


class CommandGroup(typer.core.TyperGroup):
    """Turns our errors, and packages that are not installed, into one line and an exit status, for every verb."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EcgscanError as error:
            _fail(error)
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in TRAIN_MODULES:
                raise
            what, fix = f"needs the package '{module}', which is not installed", "Run: pip install 'ecgscan_ray[train]'"
            _fail(InputError(what, where=f"ecgscan {ctx.invoked_subcommand}", fix=fix))
        except KeyboardInterrupt:
            print(f"interrupted: {INTERRUPTED.get(ctx.invoked_subcommand, 'nothing was changed')}", file=sys.stderr)
            sys.exit(130)


def _fail(error: EcgscanError) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_status)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ecgscan {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Read paper ECGs into records; pretrain an image encoder for them: prepare a store, pretrain on it, evaluate."""


app = typer.Typer(
    cls=CommandGroup,
    callback=options,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of ``ecgscan``, of ``python -m ecgscan_ray`` and of the jobs."""
    terminal.take()
    try:
        app(prog_name="ecgscan")
    except SystemExit as end:
        terminal.leave(int(end.code or 0))
        raise
