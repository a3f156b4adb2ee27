"""Pretraining runs that follow one another."""

import pytest

from lightning_modules.experiments.recipes import Recipe
from lightning_modules.experiments.study.pretraining import Pretraining

RECIPES = {name: Recipe(config=[f"{name}.yaml"]) for name in ("first", "second", "third")}


def test_a_pretraining_that_follows_another_needs_it_and_brings_it_along() -> None:
    made = Pretraining(RECIPES, after={"third": "second", "second": "first"}, seeds=[5, 6])
    made.check(["scratch", "third"])
    runs = made.runs(["scratch", "third"], [0, 1])
    assert [run.name for run in runs] == [
        f"pretraining/{name}/seed={seed}"
        for seed in (5, 6)
        for name in ("first", "second", "third")
    ]
    assert [run.needs for run in runs[:3]] == [(), (runs[0].name,), (runs[1].name,)]
    assert made.needed("third", 1) == ("pretraining/third/seed=6",)
    assert made.chain("scratch", 0) == []
    assert [run.name for run in made.runs(["first"], [0])] == ["pretraining/first/seed=5"]


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"third": "fourth"}, "pretraining.after: no recipe 'fourth'"),
        ({"zeroth": "first"}, "pretraining.after: no recipe 'zeroth'"),
        ({"first": "second", "second": "first"}, "comes before itself"),
        ({"first": "first"}, "'first' comes before itself"),
    ],
)
def test_what_follows_nothing_or_itself_is_refused(after: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pretraining(RECIPES, after=after).check([])
