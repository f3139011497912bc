"""An update over a bad network in small; `./dev soak broken-net` has all six kinds. A real agent behind a meddler."""

import pytest

from tests.crash import nets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_an_update_comes_through_where_a_third_of_the_messages_is_lost() -> None:
    result = nets.main(1, 20_261_125)
    assert result["ok"], result
