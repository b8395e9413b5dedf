"""Entry point of ``halbctl``."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence


def main() -> None:
    """Run ``sys.argv`` and end the process, without exit handlers."""
    # A command allocates little and ends soon: the collector would only look
    # again and again at what the imports made. `status --watch` turns it on.
    gc.disable()
    _open_streams()
    try:
        code = run(sys.argv[1:])
        sys.stderr.flush()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    # All is written and closed: not to take the interpreter apart saves 15 ms.
    os._exit(code)


def _open_streams() -> None:
    """Open those of the three standard streams that this process was started without.

    Each takes the number that is free, so that no socket does, and nothing that is for
    people is printed in place of data.
    """
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are on stderr."""
    from typer.exceptions import Abort, TyperException

    from halbctl.app import command_line
    from halbctl.errors import report, usage
    from halbctl.settings import Settings
    from protocol.errors import HalbError

    try:
        settings = Settings.from_environment()
        code = command_line().main(
            list(argv), prog_name="halbctl", standalone_mode=False, obj=settings
        )
        sys.stdout.flush()
    except HalbError as error:
        return report(error)
    except TyperException as error:
        return usage(error)
    except Abort:
        return 130
    except SystemExit as ended:
        # Typer ends so where the reader goes away while a command still prints.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return _without_reader()
    except BrokenPipeError:
        return _without_reader()
    except OSError as error:
        return report(HalbError(f"{error.filename or 'stdout'}: {error.strerror}"))
    return code or 0


def _without_reader() -> int:
    """The reader (`| head`) has what it wanted; the exit code of others that a pipe ends.

    Points stdout elsewhere, or Python complains about the same pipe once more when it ends.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


if __name__ == "__main__":
    main()
