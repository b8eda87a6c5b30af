"""The command line: a group that imports a subcommand only when it is needed.

This is the one place that chooses exit codes: 0 held or promoted, 1 internal error, 2 usage or
invalid input, 3 inconclusive or evidence missing, 4 awaiting approval, 5 a service is unavailable, 10 policy denied,
11 evidence invalid, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import sys
from pathlib import Path

import click

from guardrail import home
from guardrail.commands import _output as show
from guardrail.errors import GuardrailError, InvalidInput

COMMANDS = Path(__file__).parent / "commands"


class LazyGroup(click.Group):
    """Commands are the files of ``guardrail/commands``; a file is imported when its command is looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the files."""
        del ctx
        return sorted(path.stem for path in COMMANDS.glob("[a-z]*.py"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"guardrail.commands.{cmd_name}").command
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(package_name="mlflow-guardrail", prog_name="guardrail")
def cli(debug: bool) -> None:
    """The gate between fine-tuning and the model registry.

    A fine-tuned adapter is registered only with signed proof that it is still safe and still useful.
    Start with: guardrail demo
    """
    del debug  # read by main()


def main() -> None:
    """Run the command line and exit with the code that the error class owns."""
    debug = "--debug" in sys.argv[1:]
    home.ensure()
    show.escape_what_cannot_be_written()
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except GuardrailError as error:
        show.fail(error.message(), error if debug else None)
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        show.fail("interrupted; run the same command again to go on where it stopped")
        sys.exit(130)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        show.fail_usage(error)
        sys.exit(2)
    except OSError as error:
        show.fail_unexpected("", error, debug=debug)
        sys.exit(5 if error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES) else 1)
    except UnicodeEncodeError as error:  # the name of a file, most often
        show.fail(
            InvalidInput(
                f"{error.object[error.start :][:80]!a} cannot be written in this system's encoding {error.encoding!r}",
                expected="UTF-8",
                next_step="run again with a UTF-8 locale (LC_ALL=C.UTF-8), or with PYTHONUTF8=1",
            ).message(),
            error if debug else None,
        )
        sys.exit(2)
    except Exception as error:
        show.fail_unexpected("internal error: ", error, next_step="run again with --debug and report it", debug=debug)
        sys.exit(1)
