"""The arms of an ablation: each method is a row of pinned `TrialConfig` fields, what it leaves idle included.

A pinned field wins over whatever else sets it and leaves the search space of its arm, so that `cit` is never
tuned into `afp` and two arms that differ in an idle field alone are one. Source: AFP, arXiv:2311.08089; CoIT,
arXiv:2308.04948; N-fold instructions, Bactrian-X, arXiv:2305.15011; CrossIn, arXiv:2404.11932; mid-align,
arXiv:2502.14830; PreAlign, arXiv:2407.16222; AlignX, arXiv:2509.24338; InfoXLM, arXiv:2007.07834; BLOOMZ,
arXiv:2211.01786; PolyLM, arXiv:2307.06018.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from afp_ray.config import METHOD_NAMES, FilterLimits
from afp_ray.config.fields import did_you_mean, fields_beside, trial_fields, value_type
from afp_ray.errors import ConfigError
from afp_ray.plugins import Plugin

Pins = Mapping[str, Any]

_NO_CONTRASTIVE_TERM: Pins = {
    "loss.contrastive_weight": 0.0,
    "loss.temperature": 0.05,
    "loss.layer": 1,
    "loss.pooling": "last",
    "loss.symmetric": False,
    "loss.negatives": "global",
    "loss.negatives_from": "other",
    "loss.schedule": "joint",
    "training.pair_batch_size": None,
}
# Fields of rows made of instructions: idle where all rows are translation tasks.
_NO_PARALLEL_INSTRUCTIONS: Pins = {
    "data.cross_probability": 0.5,
    "data.crossing": "pivot",
    "data.instruction_folds": 1,
    "data.keep_best": None,
    "data.instruction_scores": None,
}
_NO_INSTRUCTION_TERM: Pins = {
    **_NO_PARALLEL_INSTRUCTIONS,
    "loss.instruction_weight": 0.0,
    "loss.schedule": "joint",
    "data.num_instructions": 0,
    "data.direction_probability": 0.5,
    "data.translation_share": 0.0,
}
_NO_PAIRS: Pins = {"data.num_pairs": 0, "data.translation_share": 0.0, "data.language_temperature": None}
_INSTRUCTIONS_ALONE: Pins = {**_NO_CONTRASTIVE_TERM, **_NO_PAIRS, "loss.instruction_weight": 1.0}
_TRANSLATION_TASKS_ALONE: Pins = {
    **_NO_PARALLEL_INSTRUCTIONS,
    "data.cross_probability": 1.0,
    "data.translation_share": 1.0,
}
# Prompt and response share a language, so no row crosses in any direction.
_NO_CROSSING: Pins = {"data.cross_probability": 0.0, "data.direction_probability": 0.5, "data.crossing": "pivot"}
_NO_FILTER: Pins = {
    "data.filter": "none",
    **{f"data.filter_limits.{name}": value for name, value in FilterLimits().model_dump().items()},
}
# Nothing is random, so the seed is pinned too: one trial stands for every seed.
_UNTRAINED: Pins = {
    **_NO_CONTRASTIVE_TERM,
    **_NO_INSTRUCTION_TERM,
    **_NO_PAIRS,
    **_NO_FILTER,
    "data.seed": None,
    "seed": 0,
    "training.max_steps": 0,
    "training.learning_rate": 1e-5,
    "training.schedule": "cosine",
    "training.warmup_ratio": 0.03,
    "training.weight_decay": 0.0,
    "training.max_grad_norm": 1.0,
    "training.batch_size": 16,
    "training.max_length": 256,
    "training.precision": "fp32",
    "training.trainable": "all",
}


def _checkpoint(name: str) -> Pins:
    """A published model as it is, whatever model the other arms start from."""
    return {**_UNTRAINED, "model.name": name, "model.revision": None, "model.trust_remote_code": False}


_ROWS: Mapping[str, Pins] = {
    # The model as it is.
    "base": _UNTRAINED,
    # Parallel text only, as translation tasks under the next-token loss.
    "ft": {**_NO_CONTRASTIVE_TERM, **_TRANSLATION_TASKS_ALONE, "loss.instruction_weight": 1.0},
    # Contrastive term alone.
    "mcl": {**_NO_INSTRUCTION_TERM, "loss.contrastive_weight": 1.0},
    # Multilingual instruction tuning: prompt and response share a language.
    "mit": {**_INSTRUCTIONS_ALONE, **_NO_CROSSING},
    # The same with every instruction in every language, so fewer of them at an equal number of rows.
    "mit_nfold": {**_INSTRUCTIONS_ALONE, **_NO_CROSSING, "data.instruction_folds": "languages"},
    # Cross-lingual instruction tuning: prompt and response never share one.
    "cit": {**_INSTRUCTIONS_ALONE, "data.cross_probability": 1.0},
    # Both terms without crossing: isolates what crossing adds.
    "mcl_mit": {**_NO_CROSSING, "loss.contrastive_weight": 1.0, "data.translation_share": 0.0},
    # Pivot and target monolingual instructions and translation instructions, no contrastive term.
    "coit": {
        **_NO_CONTRASTIVE_TERM,
        **_NO_CROSSING,
        "loss.instruction_weight": 1.0,
        "data.translation_share": 1 / 3,
    },
    # Instructions that cross between any two languages beside those that do not; its form without translation tasks.
    # Which language a crossing row goes to is uniform, so there is no direction relative to the pivot.
    "crossin": {**_INSTRUCTIONS_ALONE, "data.crossing": "any", "data.direction_probability": 0.5},
    # Contrastive term at the middle layer, in turns with the task's term; what the task trains on is open.
    "mid_align": {
        "loss.contrastive_weight": 1.0,
        "loss.instruction_weight": 1.0,
        "loss.layer": "middle",
        "loss.pooling": "mean",
        "loss.temperature": 0.1,
        "loss.symmetric": False,
        "loss.negatives_from": "other",
        "loss.schedule": "alternate",
    },
    # Contrastive term at every layer beside the language modelling one, from the source to its translation, whose
    # negatives are of both languages as in the release. Reduced: on sentence pairs, where the published method takes
    # words of a dictionary and the sum of their states, and without its output embeddings and code switching.
    "prealign": {
        "loss.contrastive_weight": 1.0,
        "loss.instruction_weight": 1.0,
        "loss.layer": "all",
        "loss.pooling": "mean",
        "loss.temperature": 0.1,
        "loss.symmetric": False,
        "loss.negatives_from": "both",
        "loss.schedule": "joint",
    },
    # First stage: translation tasks and the contrastive term at the middle layer from the source to its translation,
    # which the release halves beside a weight of 0.3. Reduced: on sentences that are encoded apart, where the release
    # takes spans of one instruction, and without the head that tells languages apart.
    "alignx": {
        **_TRANSLATION_TASKS_ALONE,
        "loss.contrastive_weight": 0.15,
        "loss.instruction_weight": 1.0,
        "loss.layer": "middle",
        "loss.pooling": "mean",
        "loss.temperature": 0.1,
        "loss.symmetric": False,
        "loss.negatives_from": "other",
        "loss.schedule": "joint",
    },
    # Cross-lingual contrast against a long queue of earlier targets, beside translation tasks for its masked tokens of
    # translations. Reduced: for a decoder, so the last token and no projection; the middle layer for the eighth of 12.
    "infoxlm": {
        **_TRANSLATION_TASKS_ALONE,
        "loss.contrastive_weight": 1.0,
        "loss.instruction_weight": 1.0,
        "loss.layer": "middle",
        "loss.pooling": "last",
        "loss.temperature": 0.25,
        "loss.symmetric": False,
        "loss.negatives": "queue",
        "loss.negatives_from": "other",
        "loss.queue_size": 131_072,
        "loss.queue_momentum": 0.9999,
        "loss.schedule": "joint",
    },
    # Align aFter Pre-train, with the defects of the published code mended; the rest is open to search.
    "afp": {"loss.contrastive_weight": 1.0},
    # The published choices of objective, mix and optimizer; the defects of the published code are mended in this row
    # too, and its batch, steps and share of translation tasks are left to the study (docs/published-code.md).
    "afp_paper": {
        **_NO_FILTER,
        "loss.contrastive_weight": 1.0,
        "loss.instruction_weight": 1.5,
        "loss.temperature": 0.05,
        "loss.layer": 1,
        "loss.pooling": "last",
        "loss.symmetric": False,
        "loss.negatives": "global",
        "loss.negatives_from": "other",
        "loss.schedule": "joint",
        "data.cross_probability": 0.5,
        "data.direction_probability": 0.5,
        "data.crossing": "pivot",
        "data.instruction_folds": 1,
        "data.language_temperature": None,
        "data.keep_best": None,
        "data.instruction_scores": None,
        "training.learning_rate": 1e-5,
        "training.schedule": "cosine",
        "training.warmup_ratio": 0.03,
        "training.weight_decay": 0.0,
        "training.max_grad_norm": 1.0,
        "training.max_length": 512,
    },
    # Published checkpoints, scored as they are.
    "bloomz_560m": _checkpoint("bigscience/bloomz-560m"),
    "bloomz_7b1": _checkpoint("bigscience/bloomz-7b1"),
    "polylm_1b7": _checkpoint("DAMO-NLP-MT/polylm-1.7b"),
    "polylm_13b": _checkpoint("DAMO-NLP-MT/polylm-13b"),
}


class _Methods(Mapping[str, Pins]):
    """The rows of this package, and those that plug-ins add."""

    def __getitem__(self, method: str) -> Pins:
        """Fields that a method pins."""
        return _ROWS[method] if method in _ROWS else _pins_of(METHOD_NAMES.plugins()[method])

    def __iter__(self) -> Iterator[str]:
        """Names of all methods, ours first."""
        return iter(METHOD_NAMES)

    def __len__(self) -> int:
        return len(METHOD_NAMES)


METHODS: Mapping[str, Pins] = _Methods()


@cache
def _pins_of(plugin: Plugin) -> Pins:
    """The row of a plug-in.

    Raises: ConfigError for a row that cannot be loaded, or that pins what is no field of a trial.
    """
    row: Pins = plugin.load(Mapping)
    fields = trial_fields()
    for name in row:
        if name not in fields or name in ("method", "seed"):
            raise ConfigError(
                f"method {plugin.name!r} pins {name!r}, which is no field of a trial that a method may pin",
                where=plugin.where,
                allowed=fields_beside(str(name), fields),
                fix=did_you_mean(str(name), fields) or f"mend {plugin.package}",
            )
        try:
            value_type(name).validate_python(row[name])
        except ValidationError as error:
            raise ConfigError(
                f"method {plugin.name!r} pins {name} = {row[name]!r}: {error.errors()[0]['msg']}",
                where=plugin.where,
                fix=f"mend {plugin.package}",
            ) from error
    return MappingProxyType(dict(row))


def pins(method: str) -> Pins:
    """Fields that `method` pins, by dotted name.

    Raises: KeyError for a name that is no method; the config room refuses it before.
    """
    return METHODS[method]


SUMMARIES: Mapping[str, str] = {
    "base": "the model as it is",
    "ft": "translation tasks made from pairs, under the next-token loss",
    "mcl": "the contrastive term alone",
    "mit": "multilingual instructions: prompt and response share a language",
    "mit_nfold": "the same with every instruction in every language",
    "cit": "cross-lingual instructions: prompt and response never share a language",
    "mcl_mit": "the contrastive term and instructions that do not cross",
    "coit": "instructions of pivot and target, and translation tasks",
    "crossin": "instructions that cross between any two languages",
    "mid_align": "the contrastive term at the middle layer, in turns with the instructions",
    "prealign": "the contrastive term at every layer, negatives of both languages, beside the next-token loss",
    "alignx": "translation tasks and the contrastive term at the middle layer",
    "infoxlm": "translation tasks and the contrastive term against a queue of earlier targets",
    "afp": "align after pre-training: the contrastive term and cross-lingual instructions, the rest open to search",
    "afp_paper": "the same with the published choices",
    "bloomz_560m": "a published checkpoint as it is",
    "bloomz_7b1": "a published checkpoint as it is",
    "polylm_1b7": "a published checkpoint as it is",
    "polylm_13b": "a published checkpoint as it is",
}
"""Each method in a few words, as `afp methods` lists it."""
