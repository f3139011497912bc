"""Exit codes of the commands that ask a model."""

EXIT_OK = 0

EXIT_SOME_FAILED = 1

EXIT_USAGE = 2

EXIT_UNREACHABLE = 3
