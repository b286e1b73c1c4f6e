"""The rows of one arm of a study, read and drawn as its first trial would draw them."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from afp_ray.config import StudyConfig, TrialConfig, canonical_json
from afp_ray.data import sources
from afp_ray.data.readers.files import SourceFile
from afp_ray.data.readers.origins import files_by_path
from afp_ray.data.readers.report import ReadReport
from afp_ray.data.readers.unread import unread
from afp_ray.errors import ConfigError
from afp_ray.evaluation.check import files_by_folder
from afp_ray.languages import Language, declare
from afp_ray.records.plans import UnreadFiles
from afp_ray.search import make_arms, resolve
from afp_ray.search.arms import corners
from afp_ray.trial.prepare import Candidates, DrawnRows, draw_rows, needs_model, read_candidates, retrieval_languages


@dataclass(frozen=True, slots=True)
class Recipe:
    """An arm at its first seed.

    Attributes:
        arm: its name.
        config: the trial; a searched field stands at the low end or first choice of its space.
        searched: the fields of `config.data` that the study searches, with the value taken here.
    """

    arm: str
    config: TrialConfig
    searched: dict[str, Any]

    @property
    def is_trained(self) -> bool:
        """Whether the arm trains on anything."""
        return self.config.training.max_steps > 0

    @property
    def takes_both(self) -> bool:
        """Whether both terms of the loss have rows."""
        return self.config.data.has_pairs and self.config.data.has_instructions

    @property
    def seed(self) -> int:
        """Seed of the draw."""
        return self.config.data.seed if self.config.data.seed is not None else self.config.seed


def recipe_of(study: StudyConfig, arm: str | None = None) -> Recipe:
    """The recipe of an arm; without a name the first that trains on pairs and instructions, else the first trained.

    Raises: ConfigError for a name that is no arm, or an arm that trains on nothing.
    """
    recipes = {recipe.arm: recipe for recipe in _recipes(study)}
    trained = [name for name, recipe in recipes.items() if recipe.is_trained]
    both = [name for name in trained if recipes[name].takes_both]
    chosen = arm if arm is not None else next(iter([*both, *trained]), None)
    if chosen not in trained:
        problem = f"arm {arm!r} trains on nothing" if arm in recipes else f"there is no arm {arm!r}"
        raise ConfigError(
            problem if arm is not None else f"no arm of {study.name} is trained",
            where="--arm" if arm is not None else "compare.method",
            allowed=", ".join(trained) or "none",
            fix="choose an arm that is trained",
        )
    return recipes[chosen]


def trained_recipes(study: StudyConfig) -> list[Recipe]:
    """The recipe of every arm that is trained."""
    return [recipe for recipe in _recipes(study) if recipe.is_trained]


def _recipes(study: StudyConfig) -> Iterator[Recipe]:

    for arm in make_arms(study):
        params = {name: corners(spec)[0] for name, spec in arm.tune.items()}
        searched = {name: value for name, value in params.items() if name.startswith("data.")}
        yield Recipe(arm.name, resolve(arm, params, study.seeds[0]), searched)


def read(recipe: Recipe) -> Candidates:
    """What the recipe's trial draws from; its model is loaded where the filter needs it.

    Raises: DataError for a file that cannot be read, a language without rows, or a filter that leaves nothing.
    """
    if not needs_model(recipe.config.data):
        return read_candidates(recipe.config)
    from afp_ray.models.load import load_model

    return read_candidates(recipe.config, load_model(recipe.config.model))


def read_unfiltered(config: TrialConfig) -> Candidates:
    """What a trial draws from before any filter."""
    data = config.data.model_copy(update={"filter": "none", "keep_best": None})
    return read_candidates(config.model_copy(update={"data": data}))


def read_reports(config: TrialConfig) -> "list[ReadReport]":
    """What each source of a trial read, kept and refused."""
    data = config.data
    declare(data.declared)
    reports: list[ReadReport] = []
    if data.has_pairs:
        reports += sources.read_pairs(data)[1]
    if data.has_instructions and data.translation_share < 1:
        reports += sources.read_instructions(data)[1]
    return reports


def unread_files(configs: Sequence[TrialConfig]) -> tuple[UnreadFiles, ...]:
    """What lies in the folders and archives that any of `configs` reads, and none of them reads."""
    read: list[tuple[str, list[SourceFile]]] = []
    codes: dict[str, None] = {}
    declared: dict[str, Language] = {}
    seen: set[str] = set()
    for config in configs:
        data, evaluation = config.data, config.evaluation
        if config.training.max_steps == 0:
            data = data.model_copy(update={"num_pairs": 0, "num_instructions": 0})
        included = {"sources", "pivot", "languages", "num_pairs", "num_instructions", "translation_share"}
        key = canonical_json([data.model_dump(mode="json", include=included), evaluation.model_dump(mode="json")])
        if key in seen:
            continue
        seen.add(key)
        declared |= data.declared
        declare(declared)
        heldout = evaluation.representation.source if evaluation.representation is not None else None
        read += files_by_path(data, heldout, retrieval_languages(config))
        read += files_by_folder(evaluation, languages=config.evaluated_languages, pivot=data.pivot)
        codes |= dict.fromkeys((data.pivot, *data.languages, *config.evaluated_languages))
    return tuple(UnreadFiles(**dataclasses.asdict(found), text=str(found)) for found in unread(read, list(codes)))


def study_configs(study: StudyConfig) -> list[TrialConfig]:
    """The first trial of every arm."""
    return [recipe.config for recipe in _recipes(study)]


def training_texts(rows: Candidates) -> Iterator[tuple[str, str]]:
    """Language and text of everything that may be drawn from."""
    for pair in rows.pairs:
        yield pair.source_language, pair.source
        yield pair.target_language, pair.target
    for row in rows.instructions:
        yield from row.prompts.items()
        yield from row.responses.items()


def draw(recipe: Recipe, rows: Candidates) -> DrawnRows:
    """The rows that the recipe's trial trains on; a term without weight has none."""
    config = recipe.config
    drawn = draw_rows(config, rows)
    return DrawnRows(
        drawn.pairs if config.loss.contrastive_weight > 0 else [],
        drawn.instructions if config.loss.instruction_weight > 0 else [],
    )
