"""The choice tasks by name; a new one adds its module and its line here."""

from afp_ray.evaluation.task import Task
from afp_ray.evaluation.tasks import pawsx, xcopa, xnli, xstorycloze, xwinograd

TASKS: dict[str, Task] = {
    "xnli": xnli.TASK,
    "pawsx": pawsx.TASK,
    "xcopa": xcopa.TASK,
    "xstorycloze": xstorycloze.TASK,
    "xwinograd": xwinograd.TASK,
}
