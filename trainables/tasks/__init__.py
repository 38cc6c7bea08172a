"""Tasks: prompts, reference answers, and judging answers in killable processes."""

from __future__ import annotations

from trainables.tasks.base import Problem, Split, Task
from trainables.tasks.load import load_task

__all__ = ["Problem", "Split", "Task", "load_task"]
