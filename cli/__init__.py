"""The `mlxquant` command: one click command a file, imported only when it is asked for.

Exit status: 0 done, 1 the work failed, 2 the input or the command line was wrong, 130 interrupted.
Results go to stdout, progress and notes to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from .. import __version__
from ..errors import MlxquantError

__all__ = ["main"]

COMMANDS = (
    "quantize",
    "chat",
    "generate",
    "inspect",
    "eval",
    "recommend",
    "bench",
    "report",
    "import",
    "export",
    "imatrix",
    "doctor",
)

#: commands whose names no module can have
_MODULES = {"import": "import_gguf"}


class LazyGroup(click.Group):
    """A click group whose commands live in modules of their own, imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; its module is imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{_MODULES.get(cmd_name, cmd_name)}", __package__)
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. The reader of our pipe going away (`| head`) is not an error, but nothing
        more can be said; click itself would leave with status 1."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return result


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="With no MODEL, the small model that comes with mlxquant is used.",
)
@click.version_option(__version__, "-V", "--version")
def app() -> None:
    """Make language models small and keep them good, on Apple Silicon."""


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        status = app.main(prog_name="mlxquant", standalone_mode=False)
    except click.exceptions.Exit as stop:
        status = stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        # An interrupt that passed through an exec of source text, as in an import that makes a
        # dataclass, has Python end by the signal whatever the status; the next exec forgets it.
        exec("")
        status = 130
    except MemoryError:
        click.echo(
            "error: the memory is not enough; close other programs, or take fewer --threads. What "
            "was finished is kept where the command knows --resume",
            err=True,
        )
        status = 1
    except click.ClickException as problem:
        problem.show()
        status = 2
    except MlxquantError as problem:
        click.echo(f"error: {problem}", err=True)
        status = problem.exit_status
    sys.exit(status if isinstance(status, int) else 0)
