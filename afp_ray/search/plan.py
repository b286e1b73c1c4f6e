"""What a study asks for before anything starts: the records that `StudySearch.plan` gives."""

from dataclasses import dataclass

from afp_ray.search.arms import Arm


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """What an arm still needs.

    Attributes:
        arm: the arm.
        num_search: search trials that it may take altogether, those that ended included; 0 without a space.
        num_confirm: trials that its confirmation trains, at most.
        num_test: stored checkpoints that its confirmation scores on the test split.
        known_ids: trials whose configuration does not wait for a search.
        finished_ids: trials of the arm that are DONE.
    """

    arm: Arm
    num_search: int
    num_confirm: int
    num_test: int
    known_ids: tuple[str, ...]
    finished_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study asks for, before anything starts.

    Attributes:
        arms: one plan per arm, in the order of the table.
        notes: sentences that a user should read: merged arms, a grid that the budget cuts.
    """

    arms: tuple[ArmPlan, ...]
    notes: tuple[str, ...]

    @property
    def num_trials(self) -> int:
        """Trials that are trained at most, over all arms."""
        return len({known for plan in self.arms for known in plan.known_ids}) + sum(
            plan.num_search + plan.num_confirm for plan in self.arms if plan.arm.is_searched
        )

    @property
    def finished_ids(self) -> tuple[str, ...]:
        """Trials that are DONE already."""
        return tuple(dict.fromkeys(done for plan in self.arms for done in plan.finished_ids))
