"""Plans: names and mappings, grids from lists, and one clear line for what does not exist."""

from __future__ import annotations

import pytest

from everlong.errors import ConfigError
from everlong.evaluate.plan import Plain, Plan, entries, subjects
from everlong.methods import Blocks, Sinks


def test_methods_by_name_and_by_fields():
    assert subjects(["transformers", "sinks", {"name": "blocks", "top_k": 4}]) == (Plain(), Sinks(), Blocks(top_k=4))


def test_a_list_as_the_value_of_a_field_makes_a_grid():
    grid = subjects([{"name": "sinks", "sinks": [0, 4], "window": [8, 9]}])
    assert grid == (Sinks(0, 8), Sinks(0, 9), Sinks(4, 8), Sinks(4, 9))


def test_lists_of_a_task_that_are_values_stay_lists(echo):
    (entry,) = entries([{"name": "echo", "lengths": [8, 16]}], ["sinks"])
    assert entry.task.lengths == (8, 16)
    several = entries([{"name": "echo", "lengths": "1K,8", "samples": [1, 2]}], ["sinks"])
    assert [(e.task.lengths, e.task.samples) for e in several] == [((1024, 8), 1), ((1024, 8), 2)]


def test_a_task_may_have_methods_of_its_own(echo):
    first, second = entries([{"name": "echo", "methods": ["window", "sinks"]}, "echo"], ["dense"])
    assert [s.name for s in first.subjects] == ["window", "sinks"]
    assert [s.name for s in second.subjects] == ["dense"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: entries(["ecko"], ["sinks"]), "task 'ecko': does not exist; did you mean 'echo'"),
        (lambda: entries(["echo"], ["sink"]), "method 'sink': does not exist; .*did you mean 'sinks'"),
        (lambda: entries([{"name": "echo", "length": 3}], ["sinks"]), "task echo has no option 'length'"),
        (lambda: entries([{"lengths": 3}], ["sinks"]), "expected a name, or a mapping with `name`"),
        (lambda: subjects([{"name": "transformers", "window": 3}]), "transformers: has no options, got window"),
        (lambda: subjects([3]), "3: expected a name"),
    ],
)
def test_what_does_not_exist_is_refused(echo, make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_the_description_has_every_default(echo):
    plan = Plan(entries(["echo"], ["transformers", "sinks"]), seed=3)
    found = plan.as_dict()
    assert found["seed"] == 3
    assert found["entries"] == [
        {
            "task": {"name": "echo", "version": 1, "lengths": (20, 40), "samples": 2},
            "methods": [{"name": "transformers"}, {"name": "sinks", "sinks": 4, "window": 1020}],
        }
    ]


def test_weights_are_described_where_they_are_packed(echo):
    assert "weights" not in Plan(entries(["echo"], ["sinks"])).as_dict()
    assert Plan(entries(["echo"], ["sinks"]), weights="int4").as_dict()["weights"] == "int4"
