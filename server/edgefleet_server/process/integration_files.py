"""Writes the files for other monitoring systems that come with the server: rules for Prometheus, dashboards for Grafana."""

import argparse
import shutil
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "observability" / "monitoring_files"


def main() -> None:
    """Copy all files to a folder, which is made where it is missing; print their paths."""
    parser = argparse.ArgumentParser(prog="edgectl server monitoring-files")
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(FOLDER.iterdir()):
        shutil.copyfile(file, out / file.name)
        print(out / file.name)  # noqa: T201  # this is what it is for


if __name__ == "__main__":
    main()
