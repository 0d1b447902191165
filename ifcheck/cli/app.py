"""The Typer application: commands, and the one place where errors become exit codes."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import ifcheck
from ifcheck.cli import terminal
from ifcheck.cli.commands import COMMANDS
from ifcheck.errors import EXIT_FAILED_WHILE_RUNNING, EXIT_INTERRUPTED, IfcheckError


class ErrorBoundary(TyperGroup):
    """Turns every exception into one message and the exit code that it carries."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            terminal.show_error("interrupted.", "Finished files are kept.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except IfcheckError as error:
            terminal.show_error(error.message, error.remedy)
            raise typer.Exit(error.exit_code) from None
        except (MemoryError, OSError) as error:
            terminal.show_error(f"{type(error).__name__}: {error}", "Finished files are kept.")
            raise typer.Exit(EXIT_FAILED_WHILE_RUNNING) from None
        except Exception as error:
            if type(error).__module__.split(".")[0] == "typer":
                raise  # a command that is done, or usage that typer explains itself
            first_line = next(iter(str(error).splitlines()), "")
            terminal.show_error(
                f"unexpected {type(error).__name__}: {first_line}",
                "This is a fault of ifcheck's: please report it with the output of --debug.",
            )
            raise typer.Exit(EXIT_FAILED_WHILE_RUNNING) from None


app = typer.Typer(
    cls=ErrorBoundary,
    name="ifcheck",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ifcheck {ifcheck.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Can influence functions be trusted on this model?

    Train, predict removal by influence functions, remove and retrain, compare.

    Stages: `train`, `influence`, `retrain`, `eigen`, `evaluate`; `fragility` chains them all.

    Example: `ifcheck fragility --dataset iris --width 5 --seeds 50 --out study/`
    """


for name, command in COMMANDS.items():
    app.command(name, no_args_is_help=False)(command)
