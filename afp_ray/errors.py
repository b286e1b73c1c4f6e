"""The exception tree: one class per cause, so that the command line can turn each into its exit code.

AfpError
├── UserError                 the user can fix it; nothing was started           exit 2
│   ├── ConfigError           a study or trial file, an option
│   ├── DataError             a data file, a row, a language without rows
│   ├── TaskError             an evaluation task, a label, a template
│   └── ModelError            a checkpoint that is missing or no causal LM
├── DivergedError             a loss that is not finite, with its step           trial FAILED (DIVERGED)
├── TrainingInterruptedError  training stopped on request, its state saved       trained on from there later
├── SupersededError           a fresh attempt has taken the trial's place        nobody listens any more
├── StudyLockedError          another driver holds the study                     exit 6
├── StudyChangedError         the study file differs from the one that was run   exit 2
└── UnavailableError          a cluster or storage is away for now               exit 75
    └── StorageError          a disk is full or refuses                          the study stops, exit 75
"""

from collections.abc import Sequence


class AfpError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(AfpError):
    """A mistake that the user can fix.

    Args:
        problem: what is wrong, with the value.
        where: file:line:column, the field, or the row; "" when there is none.
        allowed: the allowed set or range; "" when the problem says it.
        fix: what to change.
    """

    def __init__(self, problem: str, *, where: str = "", allowed: str = "", fix: str = "") -> None:
        self.problem, self.where, self.allowed, self.fix = problem, where, allowed, fix
        super().__init__(problem)

    def __str__(self) -> str:
        """The message as the terminal shows it: place and problem, allowed values, fix."""
        lines = [f"{self.where}: {self.problem}" if self.where else self.problem]
        if self.allowed:
            lines.append(f"allowed: {self.allowed}")
        if self.fix:
            lines.append(f"fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the fields when the error crosses a process."""
        return _rebuild, (type(self), self.problem, self.where, self.allowed, self.fix)


def _rebuild(kind: type[UserError], problem: str, where: str, allowed: str, fix: str) -> UserError:
    return kind(problem, where=where, allowed=allowed, fix=fix)


class ConfigError(UserError):
    """A study file, a trial file or an option is wrong."""


class SeveralConfigError(ConfigError):
    """Several mistakes of one study; the first stands for all of them wherever one is expected.

    Args:
        mistakes: two or more, in the order of the file.
    """

    def __init__(self, mistakes: Sequence[UserError]) -> None:
        self.mistakes = tuple(mistakes)
        first = self.mistakes[0]
        super().__init__(first.problem, where=first.where, allowed=first.allowed, fix=first.fix)

    def __str__(self) -> str:
        """Each mistake as the terminal shows it, with an empty line between them."""
        return "\n\n".join(map(str, self.mistakes))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the mistakes when the error crosses a process."""
        return type(self), (self.mistakes,)


class DataError(UserError):
    """A data file or a row of it is wrong, or there are too few rows."""


class TaskError(UserError):
    """An evaluation task cannot be rendered or scored as asked."""


class ModelError(UserError):
    """A checkpoint is missing, broken, or not a causal language model."""


class StudyChangedError(UserError):
    """The study on disk was made from another study file, or ran with other packages."""


class DivergedError(AfpError):
    """The loss or the gradient stopped being finite.

    Args:
        step: the optimizer step (0-based) at which it happened.
        what: the quantity and its value.
    """

    def __init__(self, step: int, what: str) -> None:
        self.step, self.what = step, what
        super().__init__(f"diverged at step {step}: {what}")

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the fields when the error crosses a process."""
        return type(self), (self.step, self.what)


class TrainingInterruptedError(AfpError):
    """Training stopped because it was asked to; a fresh attempt goes on where it stopped.

    Args:
        step: optimizer steps that are done and saved.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"stopped on request after step {step}")

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the fields when the error crosses a process."""
        return type(self), (self.step,)


class SupersededError(AfpError):
    """Another attempt has taken this one's place: it was given up, and may not write any more."""


class StudyLockedError(AfpError):
    """Another driver holds the lease of the study.

    Args:
        problem: who holds it, and since when.
        study: its name, for what to do about it; "" where it is not known.
    """

    def __init__(self, problem: str, study: str = "") -> None:
        self.study = study
        super().__init__(problem)


class UnavailableError(AfpError):
    """A cluster, a tracking server or a disk cannot be reached for now; trying again is safe."""


class StorageError(UnavailableError):
    """A disk is full or refuses to be written; what was written before is whole."""
