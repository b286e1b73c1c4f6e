"""Names the drawn rows of a trial by what decides them, so that equal rows are found without reading any."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.config.base import canonical_json
from afp_ray.config.trial import SCORE_VERSION
from afp_ray.data import sources
from afp_ray.data.drawing import rounded
from afp_ray.data.readers.files import digest, expand_path, plain_file
from afp_ray.data.readers.origins import instruction_sources, pair_sources


@dataclass(frozen=True, slots=True)
class RecipeKeys:
    """Names of the rows of a trial: equal where the drawn rows are equal.

    Attributes:
        pairs: of the drawn translation pairs.
        instructions: of the drawn instructions.
    """

    pairs: str
    instructions: str


def recipe_keys(
    config: DataConfig, *, seed: int, heldout: Mapping[str, Any] | None = None, model: str = ""
) -> RecipeKeys:
    """Name the drawn rows by what decides them and by nothing else; no row is read.

    Files enter by their content, and fields that are idle in this recipe do not enter.

    Args:
        config: the recipe.
        seed: of the trial; the draw takes it when `config.seed` is null.
        heldout: what decides the held-out pairs, which are taken out of the training pairs; None when there are none.
        model: names the untrained model and how its states are taken; it enters where the recipe scores rows by it.
    Raises: DataError when a file is missing or cannot be read.
    """
    seed = seed if config.seed is None else config.seed
    pairs = canonical_json(_pair_recipe(config, seed, heldout, model))
    return RecipeKeys(pairs, canonical_json(_instruction_recipe(config, seed, pairs, model)))


def _pair_recipe(config: DataConfig, seed: int, heldout: Mapping[str, Any] | None, model: str) -> dict[str, Any]:
    if not config.has_pairs:
        return {"num_pairs": 0}
    read = config.model_copy(update={"num_instructions": 0})
    return _names(config) | {
        "score_version": SCORE_VERSION,
        "seed": seed,
        "sources": _without_paths(pair_sources(config.sources)),
        "fingerprint": sources.fingerprint(read),
        "pivot": config.pivot,
        "languages": config.languages,
        "num_pairs": config.num_pairs,
        "language_temperature": config.language_temperature if len(config.languages) > 1 else None,
        "filter": _filter(config, model),
        "heldout": heldout,
    }


def _instruction_recipe(config: DataConfig, seed: int, pairs: str, model: str) -> dict[str, Any]:
    num_tasks: Any
    num_rows: Any
    if config.num_instructions == "all":  # what there are is decided by the files, the filter and the folds
        num_tasks = config.translation_share
        num_rows = "all" if num_tasks < 1 else 0
    else:
        num_tasks = rounded(config.num_instructions * config.translation_share)
        num_rows = config.num_instructions - num_tasks
    recipe: dict[str, Any] = {"num_rows": num_rows, "num_tasks": num_tasks}
    if num_tasks:
        # Tasks are made from the drawn pairs, and drawn from them by their amounts when those have a temperature.
        recipe |= {"pairs": pairs, "direction_probability": config.direction_probability}
    if not num_rows:
        return recipe | _names(config) | {"score_version": SCORE_VERSION, "seed": seed} if num_tasks else recipe
    read = config.model_copy(update={"num_pairs": 0, "translation_share": 0.0})
    recipe |= _names(config) | {
        "score_version": SCORE_VERSION,
        "seed": seed,
        "sources": _without_paths(instruction_sources(config.sources)),
        "fingerprint": sources.fingerprint(read),
        "pivot": config.pivot,
        "languages": config.languages,
        "cross_probability": config.cross_probability,
        "folds": config.num_folds,
        "filter": _filter(config, model),
        "keep_best": _keep_best(config, model),
    }
    crosses = config.cross_probability > 0
    if len(config.languages) > 1 and (crosses or config.num_folds > 1):  # folds are dealt by the cells there could be
        recipe["crossing"] = config.crossing
    if len(config.languages) > 1 and crosses and config.crossing == "pivot":
        recipe["direction_probability"] = config.direction_probability
    return recipe


def _names(config: DataConfig) -> dict[str, Any]:
    """What the study says of languages: names stand in prompts, scripts decide what the filter lets pass."""
    names = config.model_dump(mode="json", include={"language_names"})
    return names if config.language_names else {}


def _without_paths(held: Iterable[SourceConfig]) -> list[dict[str, Any]]:
    return [source.model_dump(mode="json", exclude={"path"}) for source in held]


def _filter(config: DataConfig, model: str) -> dict[str, Any]:
    if config.filter == "none":
        return {}
    limits = config.filter_limits.model_dump(mode="json")
    if config.filter == "similarity":
        return {"filter": config.filter, "limits": limits, "model": model}
    limits.pop("min_similarity")
    return {"filter": config.filter, "limits": limits}


def _keep_best(config: DataConfig, model: str) -> dict[str, Any]:
    if config.keep_best is None:
        return {}
    if config.instruction_scores is None:
        return {"keep_best": config.keep_best, "model": model}
    scores = plain_file(expand_path(config.instruction_scores))
    return {"keep_best": config.keep_best, "scores": digest(scores)}
