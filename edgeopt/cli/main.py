"""The ``edgeopt`` program: commands in one table, errors to exit codes in one place."""

from __future__ import annotations

import os
import signal
import sys

import typer

from edgeopt import __version__
from edgeopt.cli import (
    bench,
    devices,
    inspect,
    package,
    predict,
    profile,
    quantize,
    table,
    train,
    verify,
)
from edgeopt.cli import (
    compile as compile_command,
)
from edgeopt.cli.console import print_error
from edgeopt.core.errors import EdgeoptError

app = typer.Typer(
    name="edgeopt",
    help="From a once-for-all supernet, or any ONNX network, to C proven to run on a given board.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a bug in edgeopt, 2 bad input, 3 no candidate meets the budget, "
    "4 a tool is missing or failed, 5 the board did not answer.",
)

app.command("compile")(compile_command.run)
app.command("devices")(devices.run)
app.command("inspect")(inspect.run)
app.command("verify")(verify.run)
app.command("bench")(bench.run)
app.command("package")(package.run)
app.command("predict")(predict.run)
app.command("profile")(profile.run)
app.command("quantize")(quantize.run)
app.command("train")(train.run)
app.add_typer(table.app, name="table")


def _show_version(value: bool) -> None:
    if value:
        print(f"edgeopt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """From a once-for-all supernet, or any ONNX network, to C proven to run on a given board."""


def main() -> None:
    """Run the command line; every `EdgeoptError` becomes its exit code, anything else is a bug."""
    try:
        app()
    except EdgeoptError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of stdout went away (`edgeopt … | head`): say nothing more to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
