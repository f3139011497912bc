"""A run that reads a file of tests when its turn comes runs the same tests with the same ends as one that reads all of them first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.house.file_queue import asked_for
from tests.house.tree import ROOT

FILES = {
    "test_ends.py": """
        import pytest
        @pytest.fixture(scope="module")
        def shared():
            print("made once")
            yield [0]
            print("put away")
        @pytest.mark.parametrize("n", [1, 2])
        def test_cases(shared, n):
            shared[0] += n
            assert shared[0] <= 3
        class TestGroup:
            def test_fails(self, shared):
                assert shared == [0]
        @pytest.mark.skip(reason="not today")
        def test_skipped(): pass
        @pytest.mark.xfail(strict=True)
        def test_fails_as_it_should():
            assert False
        @pytest.fixture
        def broken():
            raise OSError("no")
        def test_has_no_start(broken): pass
        def test_is_left_out(): pass
    """,
    "test_unreadable.py": "import there_is_no_such_module\n",
    "test_left_out_whole.py": "import pytest\npytest.skip('none here', allow_module_level=True)\n",
    "test_zero.py": "def test_is_left_out(): pass\n",
    "deep/conftest.py": "import pytest\n@pytest.fixture\ndef seven(): return 7\n",
    "deep/test_more.py": "def test_a_fixture_of_the_folder(seven): assert seven == 7\n",
    "conftest.py": """
        def pytest_collection_modifyitems(items):
            items[:] = [item for item in items if item.name != "test_is_left_out"]
    """,
}


def lines(text: str) -> str:
    """Return a source without the indentation that it has in this file."""
    return re.sub(r"^ {8}", "", text, flags=re.MULTILINE)


def run(folder: Path, *flags: str) -> tuple[int, list[str], str]:
    """Return how a run of the files ended: the code, each test with its end, and the counts of `./dev test`."""
    counts = folder / "counts"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            os.devnull,
            "--rootdir",
            ".",
            "-rA",
            "-p",
            "tests.house.closing",
            *flags,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "EDGEFLEET_TEST_COUNTS": str(counts)},
        capture_output=True,
        text=True,
        check=False,
    )
    ends = re.findall(
        r"^(?:PASSED|FAILED|ERROR|XFAIL|SKIPPED) (?:\[\d+\] )?[^\s:]+(?:::\S+)?", done.stdout, re.MULTILINE
    )
    assert ends, done.stdout + done.stderr
    return done.returncode, sorted(ends), counts.read_text()


def test_every_test_has_the_end_that_it_has_without_the_queue(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(lines(text))
    workers = ["-n", "2", "--dist", "loadfile", "--continue-on-collection-errors"]
    code, ends, counts = run(tmp_path, *workers, "-p", "tests.house.file_queue")
    assert (code, ends, counts) == run(tmp_path, *workers)
    assert (code, counts) == (1, "4 3 2"), "the file that cannot be read is one of three failures"
    assert not any("left_out" in end and "whole" not in end for end in ends)


def test_what_a_file_asks_for_is_seen_in_its_text() -> None:
    text = "def test_a(house: House, n: int = 3) -> None: ...\nasync def test_b(\n    any_world: dict[str, int],\n) -> None:"
    assert asked_for(text) >= {"house", "n", "any_world"}
    assert not asked_for("def helper(house): ...\nclass Fleet:\n    def test(self, world): ...")
