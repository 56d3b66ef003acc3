"""The rows of a run in their order: which sample each step takes, a function of the step's number alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from everlong.train.data.sample import Example
from everlong.train.data.task import TrainingTask
from everlong.train.recipe import Recipe, Stage


class Rows(Dataset[Example]):
    """Sample number i of a run: of the stage and task that the recipe gives for it."""

    def __init__(self, recipe: Recipe, tokenizer: Any) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.sizes = [stage.steps * stage.batch for stage in recipe.stages]
        self.tasks = [stage.tasks() for stage in recipe.stages]

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, index: int) -> Example:
        left = index
        for stage, tasks, size in zip(self.recipe.stages, self.tasks, self.sizes, strict=True):
            if left < size:
                return sample(self.recipe, stage, tasks, self.tokenizer, self.recipe.seed, index)
            left -= size
        raise IndexError(index)


def sample(
    recipe: Recipe, stage: Stage, tasks: list[tuple[float, TrainingTask]], tokenizer: Any, seed: int, index: int
) -> Example:
    """Sample `index` of a stage: a task drawn by its share, and its sample of that number."""
    shares, choices = zip(*tasks, strict=True)
    (task,) = random.Random(f"task/{seed}/{index}").choices(choices, shares)
    segment = recipe.method_of(stage).as_dict()["segment"]
    return task.samples(tokenizer, segment, stage.length, seed, index)


@dataclass(eq=False)
class Batches:
    """The numbers of the samples of each step; what transformers' Trainer takes for a batch sampler."""

    recipe: Recipe
    processes: int = 1
    batch_size: int | None = None
    drop_last: bool = False

    def __len__(self) -> int:
        return self.recipe.steps * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        for stage in self.recipe.stages:
            share = stage.batch // self.processes
            for _ in range(stage.steps * self.processes):
                yield list(range(start, start + share))
                start += share
