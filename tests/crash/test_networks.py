"""An update over a bad network in small; `./dev soak broken-net` has all six kinds. A real agent behind a meddler."""

import pytest

from tests.crash import nets
from tests.house.soak import in_ci

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_an_update_comes_through_where_a_third_of_the_messages_is_lost_and_where_most_are() -> None:
    result = nets.main(in_ci("broken-net"), 20_261_125)
    assert result["ok"], result
    assert set(result["kinds"]) == {"30 % loss", "70 % loss"}
