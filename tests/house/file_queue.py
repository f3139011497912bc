"""pytest plugin that a whole `./dev test` loads: a process of tests reads a file of tests when it comes to it, not all of them first.

- xdist has each process read every test, so that all agree on their numbers: with four on two processors that is a minute in which no
  test runs. Here they agree on files, which is what `--dist loadfile` hands out.
- A file stands in the queue as one item. When its turn comes it is read as pytest reads it, all hooks that change, mark or leave out
  tests see what it holds, and each of its tests runs and is reported under its own name, one after another.
- A file that cannot be read is an error of the run, as it is without the plugin.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NoReturn

import pytest

_TESTS: Final = re.compile(r"^(?:async )?def test_\w+\(([^)]*)\)", re.MULTILINE)


class QueuedFile(pytest.Item):
    """All tests of one file, not read so far."""

    fixturenames: frozenset[str]
    """What the functions of the file ask for, by its text: enough to say whether it is begun early."""

    def runtest(self) -> NoReturn:
        """Never called: the tests of the file run in place of this item."""
        raise AssertionError(f"{self.nodeid} was run as if it were a test")

    def read(self) -> list[pytest.Item]:
        """Return the tests of the file that are to be run."""
        folder = self.parent.parent if self.parent is not None else None
        assert folder is not None
        module = pytest.Module.from_parent(folder, path=self.path)
        found = list(self.session.genitems(module))
        self.config.hook.pytest_collection_modifyitems(session=self.session, config=self.config, items=found)
        return found


class _Queued(pytest.File):
    def collect(self) -> list[pytest.Item]:
        """Return the one item that stands for the file."""
        item = QueuedFile.from_parent(self, name="*")
        text = self.path.read_text(encoding="utf-8")
        item.fixturenames = asked_for(text)
        if "mark.slow" in text:
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.timeout(0))  # each test has its own
        return [item]


def asked_for(text: str) -> frozenset[str]:
    """Return the words in the parameters of the test functions of a source: all fixtures that these ask for, and more."""
    return frozenset(word for parameters in _TESTS.findall(text) for word in re.findall(r"\w+", parameters))


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector:
    """Put a file into the queue in place of its tests."""
    return _Queued.from_parent(parent, path=module_path)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run the tests of a file whose turn has come. What they share is kept for as long as without the queue."""
    if not isinstance(item, QueuedFile):
        return None
    items = item.session.items
    place = items.index(item)
    found = item.read()
    try:
        for one, after in zip(found, [*found, nextitem][1:], strict=True):
            items[place] = one  # xdist says of each report that it is of the item it handed out
            one.ihook.pytest_runtest_protocol(item=one, nextitem=after)
            if item.session.shouldfail or item.session.shouldstop:
                break
    finally:
        items[place] = item
    return True
