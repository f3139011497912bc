"""Entry point of `edgectl`.

`--version` is answered before anything heavy is imported; the server's code is never imported at all: `edgectl server …`
and `edgectl convert` start it as a process of its own.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from edgefleet_protocol.errors import EdgefleetError

GARBAGE_AFTER = 50_000
"""Objects until garbage is looked for: a start makes tens of thousands that all live on, and looking through them finds nothing."""


def main(argv: list[str] | None = None) -> None:
    """Run `edgectl` and exit with the code of `edgefleet_cli.core.errors`."""
    gc.set_threshold(GARBAGE_AFTER, 10, 10)
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:
        from edgefleet_cli.core.version import own_version

        sys.stdout.write(f"edgectl {own_version()}\n")
        sys.exit(0)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.isatty():
        sys.stdout.reconfigure(
            errors="replace"
        )  # a terminal without UTF-8 shows `?`; a pipe gets what is right or an error
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run one command line, write errors as four lines, return the exit code."""
    from edgefleet_cli.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, exit_code_of
    from edgefleet_cli.render.output import write_error
    from edgefleet_protocol.errors import EdgefleetError

    debug = "--debug" in arguments or bool(os.environ.get("EDGECTL_DEBUG"))
    try:
        return _invoke(arguments)
    except EdgefleetError as error:
        if debug:
            _trace()
        write_error(error, debug=debug)
        return exit_code_of(error)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        # typer and rich end so, with 1, when the reader of stdout went away (`edgectl … | head`): that is its right, and
        # no error of ours.
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:  # noqa: BLE001 - the outermost frame: a user gets four lines, and the trace on demand
        if debug:
            _trace()
        if isinstance(error, UnicodeEncodeError):
            refused = _as_no_text(error)
            write_error(refused)
            return exit_code_of(refused)
        write_error(_as_bug(error))
        return EXIT_FAILED


def _as_no_text(error: UnicodeEncodeError) -> EdgefleetError:
    from edgefleet_cli.core.errors import UsageError

    return UsageError(
        "a name or value holds a character that cannot be sent",
        why=f"{error.object[error.start : error.end]!a} is no character that {error.encoding} has",
        next_step="look at what was typed, at what the file says, and at the variables EDGECTL_…",
    )


def _as_bug(error: Exception) -> Exception:
    from edgefleet_cli.core.errors import CliError

    return CliError(
        "edgectl failed unexpectedly",
        why=f"{type(error).__name__}: {error}",
        next_step="run the same command with --debug and report what it prints",
    )


def _invoke(arguments: list[str]) -> int:
    import typer

    from edgefleet_cli.core.errors import EXIT_OK, EXIT_USAGE
    from edgefleet_cli.render.output import write_error
    from edgefleet_cli.tree import build, front_page

    # to make all commands takes as long as everything else that the front page needs
    is_completion = "_EDGECTL_COMPLETE" in os.environ  # a shell asks so, without arguments
    shows_front_page = arguments in ([], ["--help"], ["-h"]) and not is_completion
    command: Any = front_page() if shows_front_page else build(*_words(arguments))
    try:
        result = command.main(args=arguments, prog_name="edgectl", standalone_mode=False)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors, whichever click typer brings along
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # it has printed the help already
            return EXIT_OK
        write_error(_as_usage_error(error))
        return EXIT_USAGE
    return result if isinstance(result, int) else EXIT_OK


def _words(arguments: list[str]) -> list[str]:
    """Return what a command line begins with, before the first option: two words at most."""
    first = next((place for place, one in enumerate(arguments[:2]) if one.startswith("-")), 2)
    return arguments[:first]


def _as_usage_error(error: Any) -> Exception:
    from edgefleet_cli.core.errors import UsageError

    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "edgectl"
    whys = {
        "NoSuchOption": f"`{path}` has no such option",
        "NoSuchCommand": f"`{path}` has no such command",
        "MissingParameter": f"`{path}` needs it",
        "BadParameter": f"`{path}` does not take this value",
    }
    message = str(error.format_message()).strip().removesuffix(".")
    if message.endswith(")") and " (Possible options: " in message:
        message = message[:-1].replace(" (Possible options: ", "; did you mean ") + "?"
    if message.startswith("No such command"):  # click has no class of its own for it
        message, why = message.replace(". Did", "; did"), whys["NoSuchCommand"]
    else:
        why = whys.get(type(error).__name__, f"`{path}` is not used like this")
    return UsageError(message[:1].lower() + message[1:], why=why, next_step=f"run `{path} --help`")


def _trace() -> None:
    import traceback

    traceback.print_exc(file=sys.stderr)


if __name__ == "__main__":
    main()
