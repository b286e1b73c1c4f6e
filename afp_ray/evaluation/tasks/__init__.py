"""The choice tasks by name; a new one adds its module and its line here, or is a plug-in of another package."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache

from afp_ray.config import CHOICE_TASKS, EvaluationConfig
from afp_ray.evaluation.task import Task
from afp_ray.evaluation.tasks import pawsx, xcopa, xnli, xstorycloze, xwinograd
from afp_ray.evaluation.tasks.from_files import task_from_files
from afp_ray.plugins import Plugin

_OURS: dict[str, Task] = {
    "xnli": xnli.TASK,
    "pawsx": pawsx.TASK,
    "xcopa": xcopa.TASK,
    "xstorycloze": xstorycloze.TASK,
    "xwinograd": xwinograd.TASK,
}


class _Tasks(Mapping[str, Task]):
    """Our tasks, and those that plug-ins add."""

    def __getitem__(self, name: str) -> Task:
        """The task of that name."""
        return _OURS[name] if name in _OURS else _task_of(CHOICE_TASKS.plugins()[name])

    def __iter__(self) -> Iterator[str]:
        """Names of all tasks, ours first."""
        return iter(CHOICE_TASKS)

    def __len__(self) -> int:
        return len(CHOICE_TASKS)


TASKS: Mapping[str, Task] = _Tasks()


def choice_task(name: str, config: EvaluationConfig) -> Task:
    """A choice task that `config` scores: ours, of a plug-in, or the user's own."""
    own = config.own_tasks.get(name)
    return TASKS[name] if own is None else task_from_files(name, own)


@cache
def _task_of(plugin: Plugin) -> Task:
    """The task of a plug-in, which bears the name of its entry point; what its code raises bears the package's name.

    Raises: ConfigError when it cannot be imported, or is no `Task`.
    """
    task: Task = plugin.load(Task)
    return dataclasses.replace(
        task,
        name=plugin.name,
        render=plugin.guarded(task.render, "cannot render a row"),
        render_harness=task.render_harness and plugin.guarded(task.render_harness, "cannot render a row"),
        files=plugin.guarded(task.files, "cannot find its files"),
        parse=plugin.guarded(task.parse, "cannot read its files"),
        rows=task.rows and plugin.guarded(task.rows, "cannot give its rows"),
    )
