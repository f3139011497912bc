"""Writes the files for other monitoring systems that come with the server: rules for Prometheus, dashboards for Grafana."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Final

from edgefleet_protocol.errors import error_lines

FOLDER: Final = Path(__file__).parents[1] / "observability" / "monitoring_files"


def main(arguments: list[str] | None = None) -> int:
    """Copy all files to a folder, which is made where it is missing; print their paths. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="edgectl server monitoring-files")
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args(arguments).out
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted(FOLDER.iterdir()):
            shutil.copyfile(file, out / file.name)
            print(out / file.name)  # noqa: T201  # this is what it is for
    except OSError as error:
        next_step = "give a folder that can be written to, with --out DIR"
        lines = error_lines(f"cannot write monitoring files to {out}", why=str(error), next_step=next_step)
        sys.stderr.write("\n".join(lines) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
