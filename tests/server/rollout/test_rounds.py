"""One round over the rollouts that are due: who rests in it."""

from edgefleet_server.rollout.controller.controller import REST_S, WorkQueue


def test_who_was_looked_at_rests_a_while() -> None:
    turns = WorkQueue()
    turns.note(["a", "b"], 10.0)
    turns.note(["b"], 10.5)
    assert turns.resting(10.5) == {"a", "b"}
    assert turns.resting(10.0 + REST_S) == {"b"}
    assert turns.resting(10.5 + REST_S) == set()
    assert turns.done == {"a", "b"}


def test_news_give_all_another_turn_but_no_rest_ends_before_its_time() -> None:
    turns = WorkQueue()
    assert not turns.is_woken
    turns.note(["a"], 10.0)
    turns.wake()
    assert (turns.is_woken, turns.done, turns.resting(10.5)) == (True, set(), {"a"})
