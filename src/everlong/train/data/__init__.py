"""Training data: one file for each task in `tasks/`, all of which give samples of one form."""

from everlong.train.data.sample import Sample, collate
from everlong.train.data.task import Task, make_task, task_class, task_names

__all__ = ["Sample", "Task", "collate", "make_task", "task_class", "task_names"]
