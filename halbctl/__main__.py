"""Entry point of ``halbctl``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence


def main() -> None:
    """Run ``sys.argv`` and end the process, without exit handlers."""
    # A command allocates little and ends soon: the collector would only look
    # again and again at what the imports made. `status --watch` turns it on.
    gc.disable()
    code = run(sys.argv[1:])
    sys.stderr.flush()
    # All is written and closed: not to take the interpreter apart saves 15 ms.
    os._exit(code)


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
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Point stdout elsewhere, or
        # Python complains about the same pipe once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return report(HalbError(f"{error.filename or 'stdout'}: {error.strerror}"))
    return code or 0


if __name__ == "__main__":
    main()
