"""Which slices each memory reads, as measured on the published code."""

from __future__ import annotations

import pytest

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.engine.sam2.memory import LongTermMemory, ShortTermMemory

N_SLICES = 14


def bank_of(seeds, visited=()) -> MemoryBank:
    bank = MemoryBank(1)
    for index in seeds:
        bank.add(MemoryEntry(index, is_seed=True, content=None))
    for index in visited:
        bank.add(MemoryEntry(index, is_seed=False, content=None))
    return bank


def table(selection) -> tuple[str, str]:
    """Maps as slice@row and pointers as slice:distance; * marks a seed."""
    return (
        " ".join(f"{e.index}{'*' * e.is_seed}@{row}" for e, row in selection.maps),
        " ".join(f"{e.index}:{distance}" for e, distance in selection.pointers),
    )


def long(bank, index, direction=1, *, n_slices=N_SLICES, **config):
    return table(LongTermMemory(ModelConfig(**config)).select(bank, index, direction, n_slices))


def short(bank, index, n, direction=1, *, n_slices=N_SLICES):
    config = ModelConfig(short_memory_slices=n)
    return table(ShortTermMemory(config).select(bank, index, direction, n_slices))


def test_one_prompt_forward():
    bank = bank_of([6], [7, 8])
    assert short(bank, 9, 7) == ("6*@2 7@1 8@0", "8:1 7:2 6:3")
    assert short(bank, 9, 1) == ("8@0", "8:1")
    assert long(bank, 9) == ("6*@6 7@1 8@0", "6:3 8:1 7:2")


def test_two_prompts_forward():
    bank = bank_of([10, 3], range(4, 10))
    assert short(bank, 11, 7)[0] == "4@6 5@5 6@4 7@3 8@2 9@1 10*@0"
    assert long(bank, 11)[0] == "10*@6 3*@6 5@5 6@4 7@3 8@2 9@1"
    assert long(bank, 11)[1] == "10:1 3:8 9:2 8:3 7:4 6:5 5:6 4:7"


def test_a_future_prompt_gives_its_map_but_not_its_pointer():
    assert long(bank_of([10, 3]), 4) == ("10*@6 3*@6", "3:1")
    assert long(bank_of([10, 3], [9, 8]), 7, -1) == ("10*@6 3*@6 9@1 8@0", "10:3 8:1 9:2")


def test_reverse_in_the_published_order_sees_the_forward_results():
    bank = bank_of([6], range(7, 14))
    assert short(bank, 5, 7, -1) == (
        "12@6 11@5 10@4 9@3 8@2 7@1 6*@0",
        "6:1 7:2 8:3 9:4 10:5 11:6 12:7",
    )
    assert long(bank, 5, -1) == (
        "6*@6 11@5 10@4 9@3 8@2 7@1",
        "6:1 7:2 8:3 9:4 10:5 11:6 12:7 13:8",
    )
    assert short(bank, 5, 1, -1) == ("6*@0", "6:1")


def test_reverse_alone():
    bank = bank_of([6], [5, 4])
    assert short(bank, 3, 7, -1) == ("6*@2 5@1 4@0", "4:1 5:2 6:3")
    assert short(bank, 3, 1, -1) == ("4@0", "4:1")
    assert long(bank, 3, -1) == ("6*@6 5@1 4@0", "6:3 4:1 5:2")


def test_a_tracked_result_comes_before_the_seed_in_the_short_memory():
    """A walk over a seed leaves a result beside it; add() only drops the older visit."""
    bank = bank_of([6])
    bank.visited[6] = MemoryEntry(6, is_seed=False, content=None)
    assert short(bank, 7, 1) == ("6@0", "6:1")
    assert long(bank, 7)[0] == "6*@6 6@0"


def test_pointers_reach_fifteen_slices_and_seeds_any_distance():
    bank = bank_of([0], range(1, 40))
    maps, pointers = long(bank, 40, n_slices=60)
    assert maps == "0*@6 34@5 35@4 36@3 37@2 38@1 39@0"
    assert pointers == "0:40 " + " ".join(f"{40 - d}:{d}" for d in range(1, 16))


def test_few_slices_mean_few_pointers():
    bank = bank_of([0], range(1, 4))
    assert long(bank, 4, n_slices=3)[1] == "0:4 3:1 2:2"


def test_missing_slices_are_skipped():
    bank = bank_of([2], [5, 7])
    assert long(bank, 8) == ("2*@6 5@2 7@0", "2:6 7:1 5:3")
    assert short(bank, 8, 7) == ("2*@5 5@2 7@0", "7:1 5:3 2:6")
    assert short(bank, 10, 2) == ("", "")


def test_no_limit_on_seeds():
    bank = bank_of([0, 1, 2, 3, 5, 7, 9, 11, 13])
    maps, pointers = long(bank, 8)
    assert maps.count("@6") == 9
    assert pointers == "0:8 1:7 2:6 3:5 5:3 7:1"


def test_smaller_tables():
    bank = bank_of([0], range(1, 10))
    maps, pointers = long(bank, 10, memory_slices=3, max_pointers=4)
    assert maps == "0*@2 8@1 9@0"
    assert pointers == "0:10 9:1 8:2 7:3"


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(
    "config", [{}, {"memory_slices": 3, "max_pointers": 4}, {"memory_slices": 9, "max_pointers": 1}]
)
def test_what_lies_beyond_the_reach_is_not_read(direction, config):
    """So that a bounded bank gives the same answer as an unbounded one."""
    memory = LongTermMemory(ModelConfig(**config))
    near = ShortTermMemory(ModelConfig(short_memory_slices=5))
    reach = max(memory.reach, near.reach)
    seed = 30
    whole, bounded = bank_of([seed]), bank_of([seed])
    for step in range(1, 30):
        index = seed + direction * step
        for selector in (memory, near):
            expected = table(selector.select(whole, index, direction, 61))
            assert table(selector.select(bounded, index, direction, 61)) == expected
        for bank in (whole, bounded):
            bank.add(MemoryEntry(index, is_seed=False, content=None))
        bounded.retain(index + direction, direction, reach)
        assert len(bounded.visited) <= reach
    assert len(whole.visited) == 29


def test_labels_of_equal_structure_share_a_batch():
    memory = LongTermMemory(ModelConfig())
    first = memory.select(bank_of([6], [7]), 8, 1, 14)
    same = memory.select(bank_of([6], [7]), 8, 1, 14)
    other = memory.select(bank_of([5], [6, 7]), 8, 1, 14)
    assert first.structure == same.structure
    assert first.structure != other.structure


def test_a_seed_replaces_a_visit():
    bank = bank_of([], [3, 4])
    bank.add(MemoryEntry(3, is_seed=True, content=None))
    assert set(bank.seeds) == {3}
    assert set(bank.visited) == {4}
    assert len(bank) == 2
    bank.clear_visited()
    assert bank.get(4) is None
    assert bank.get(3).is_seed
