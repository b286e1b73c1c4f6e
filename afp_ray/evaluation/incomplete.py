"""An evaluation of which a part could not be scored: the rest is told, and no mean is made of it."""

from collections.abc import Sequence

from afp_ray.errors import AfpError
from afp_ray.records import IncompleteScores, MissingScore, Score
from afp_ray.redaction import redact

_NAMED = 5
"""Missing cells that a message names."""


class IncompleteError(AfpError):
    """Some tasks could not be scored in some languages, so that there is no mean over all of them.

    Args:
        scores: what could be scored.
        missing: what could not, at least one.
    """

    def __init__(self, scores: Sequence[Score], missing: Sequence[MissingScore]) -> None:
        missing = [one.model_copy(update={"problem": redact(one.problem)}) for one in missing]  # goes into a file
        self.found = IncompleteScores(scores=tuple(scores), missing=tuple(missing))
        cells = {(score.task, score.language, score.split) for score in scores}
        named = [f"{one.task}/{one.language} on {one.split}: {one.problem}" for one in missing[:_NAMED]]
        more = [f"{len(missing) - _NAMED} more"] if len(missing) > _NAMED else []
        super().__init__(
            f"incomplete: {len(missing)} of {len(missing) + len(cells)} scores are missing, so that there is no mean "
            f"(the others are in incomplete.json): {'; '.join([*named, *more])}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the fields when the error crosses a process."""
        return type(self), (self.found.scores, self.found.missing)
