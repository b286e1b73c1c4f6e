"""What trials answered to single examples."""

from typing import Literal

from afp_ray.config.base import StrictModel


class Answer(StrictModel):
    """What one trial answered to an example."""

    predicted: int | None = None
    """Index of the chosen choice; null for a generated text."""
    text: str = ""
    """What was generated; "" for a choice."""
    value: float
    """Of the task's main metric, in [0, 1]; of a choice 1 where it is right, else 0."""
    log_likelihoods: tuple[float, ...] = ()
    """Of each choice, in nats, summed over its tokens."""


class AnsweredExample(StrictModel):
    """One example with the answers of a trial and of what it is read against."""

    split: Literal["validation", "test"]
    task: str
    language: str
    shots: int
    """Demonstrations that stood before it; they are not among the texts here."""
    demo_seed: int
    example_id: str
    content_id: str
    metric: str
    prompt: str | None = None
    """What the choices, or the text, follow; null where the row is not on this machine, or is no longer the same."""
    choices: tuple[str, ...] = ()
    """Continuations of the prompt; whole texts where each choice has a beginning of its own."""
    gold: int | None = None
    """Index of the right choice; null for a generated text."""
    reference: str = ""
    """What a generated text is compared with."""
    trial: Answer
    other: Answer | None = None
    """Null where the trial is shown by itself."""

    @property
    def change(self) -> float:
        """The trial's value minus the other's, in [-1, 1]; 0 where there is no other."""
        return 0.0 if self.other is None else self.trial.value - self.other.value


class ChangedCell(StrictModel):
    """How many answers changed in one task and language."""

    task: str
    language: str
    compared: int
    gained: int
    """Examples whose value rose: of choices, wrong before and right now."""
    lost: int


class TrialExamples(StrictModel):
    """Examples that a trial answered, beside the answers of another one."""

    trial_id: str
    trial_name: str
    """Its arm and seed, in texts."""
    other_id: str | None = None
    other_name: str = ""
    split: Literal["validation", "test"]
    answered: int
    """Examples that fit what was asked for; `examples` are the first of them."""
    cells: tuple[ChangedCell, ...] = ()
    """Empty where there is no other trial."""
    examples: tuple[AnsweredExample, ...]
    notes: tuple[str, ...] = ()
    """Why texts are missing."""
