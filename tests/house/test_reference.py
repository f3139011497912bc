"""Pages of the reference that are made from code say what the code says now."""

from __future__ import annotations

import pytest

from edgefleet_server.settings import ServerSettings
from tests.house.reference import FOLDER, PAGES, sentences


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_makes(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == PAGES[name](), "run `./dev run python -m tests.house.reference`"


def test_every_setting_of_the_server_has_a_sentence() -> None:
    assert set(sentences()) == set(ServerSettings.model_fields)
