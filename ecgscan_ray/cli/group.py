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
    "prepare": "no store was finished; the same command starts again",
    "inspect": "nothing was changed",
    "render": "the pages written so far are complete; the same command draws all of them again",
    "pretrain": "the same command goes on from the last checkpoint",
    "teach": "the same command goes on from the last checkpoint",
    "evaluate": "no new report was written; the same command starts again",
    "sweep": "the same command goes on with the remaining trials",
    "embed": "no file was written; the same command starts again",
    "export": "nothing was exported; the same command starts again",
    "config": "nothing was changed",
    "doctor": "nothing was changed",
}
"""What Ctrl-C or SIGTERM in a verb means."""

EXTRAS = {
    "train": ("ray", "optuna", "psutil", "sklearn", "tensorboardX", "transformers"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
}
"""Extra of the distribution -> modules that it installs and the small installation lacks."""


class CommandGroup(typer.core.TyperGroup):
    """Turns our errors, and packages that are not installed, into one line and an exit status, for every verb."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EcgscanError as error:
            _fail(error)
        except ModuleNotFoundError as error:
            if (missing := missing_extra(error, ctx.invoked_subcommand)) is None:
                raise
            _fail(missing)
        except KeyboardInterrupt:
            print(f"interrupted: {INTERRUPTED.get(ctx.invoked_subcommand, 'nothing was changed')}", file=sys.stderr)
            sys.exit(130)


def missing_extra(error: ModuleNotFoundError, verb: str | None) -> InputError | None:
    """The one line for a package of an extra that is not installed; ``None`` for any other module."""
    module = (error.name or "").partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        return None
    return InputError(
        f"needs the package '{module}', which is not installed",
        where=f"ecgscan {verb}" if verb else None,
        fix=f"Run: pip install 'ecgscan_ray[{extra}]'",
    )


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
    """Pretrain an image encoder for paper ECGs: prepare a store, pretrain on it, evaluate what was learned."""


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
