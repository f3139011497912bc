"""A tenth of `./dev soak offline-30-days`: days without a connection lose no event and no count."""

from tests.agent.offline_soak import main


def test_three_days_offline_lose_nothing() -> None:
    result = main(3, 20_261_125)
    assert result["ok"], result
    assert result["crowded"]["merged"] > 0, "nothing was added up: the run proves less than it says"
