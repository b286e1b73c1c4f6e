"""An evaluation of which a part could not be scored: it says which and has the other scores, but no mean of them."""

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
        missing = [cell.model_copy(update={"problem": redact(cell.problem)}) for cell in missing]  # goes into a file
        self.report = IncompleteScores(scores=tuple(scores), missing=tuple(missing))
        cells = {(score.task, score.language, score.split) for score in scores}
        named = [f"{cell.task}/{cell.language} on {cell.split}: {cell.problem}" for cell in missing[:_NAMED]]
        more = [f"{len(missing) - _NAMED} more"] if len(missing) > _NAMED else []
        super().__init__(
            f"incomplete: {len(missing)} of {len(missing) + len(cells)} scores are missing, so that there is no mean "
            f"(the others are in incomplete.json): {'; '.join([*named, *more])}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the fields when the error crosses a process."""
        return type(self), (self.report.scores, self.report.missing)
