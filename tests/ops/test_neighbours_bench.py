"""The benchmark of a slow manager's neighbours: who they are, and what its page says."""

from agents.runtime.partitioner import partition_for
from ops.neighbours_bench import OTHERS, SAME, SLOW, Felt, Run, contexts, page
from topics.registry import OPERATIONS


def test_neighbours_are_where_they_are_said_to_be() -> None:
    same, others = contexts()
    where = [partition_for(context.encode(), OPERATIONS.partitions) for context in (SLOW, *same, *others)]
    assert len(same) == SAME
    assert set(where[: 1 + SAME]) == {where[0]}
    assert len(set(where[1 + SAME :]) - {where[0]}) == OTHERS


def test_the_page_has_a_row_for_each_and_says_what_is_missing() -> None:
    felt = {(name, slow): Felt(10, 1.0, 2.4, 3.0) for name in ("same", "other") for slow in (False, True)}
    made = page([Run(suspends, felt, 5, 9, 4, 2, {"context-suspended": 1}) for suspends in (True, False)])
    assert made.count("| 10 | 1 | 2 | 3 |") == 8
    assert "of 9 records of the slow context 5 were applied and 4 put into a tier to wait" in made
    assert made.count("1 context-suspended; results of neighbours missing: 2") == 2
