"""Training data: one file for each task in `tasks/`, all of which give samples of one form."""

from everlong.train.data.sample import Example, collate
from everlong.train.data.task import TrainingTask, make_task, task_class, task_names

__all__ = ["Example", "TrainingTask", "collate", "make_task", "task_class", "task_names"]
