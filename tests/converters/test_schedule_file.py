"""A schedule that a device could not use is refused at publication; one that it can use is a member of the bundle."""

from pathlib import Path

import pytest

from edgefleet_converters.errors import SideFileError
from edgefleet_converters.request import DataFiles
from edgefleet_converters.sidefiles import read_side_files


def read(folder: Path, text: str) -> dict[str, bytes]:
    file = folder / "given.json"
    file.write_text(text)
    return read_side_files(DataFiles(schedule=str(file)), (), ())


@pytest.mark.parametrize("zone", ["UTC", "device", "Europe/Berlin"])
def test_a_schedule_becomes_a_member(tmp_path: Path, zone: str) -> None:
    text = f'{{"every": "0 6 * * *", "tz": "{zone}"}}'
    assert read(tmp_path, text) == {"schedule.json": text.encode()}


@pytest.mark.parametrize(
    "text", ['{"every": "soon"}', '{"every": "1h", "tz": "Mars/Phobos"}', '{"every": "1h", "tz": ""}', "no"]
)
def test_a_schedule_that_no_device_can_use_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SideFileError):
        read(tmp_path, text)
