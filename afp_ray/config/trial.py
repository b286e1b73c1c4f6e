"""One trial: every field that changes a score, and no other."""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from afp_ray import plugins
from afp_ray.config.base import StrictModel, canonical_json
from afp_ray.config.data import DataConfig
from afp_ray.config.evaluation import EvaluationConfig
from afp_ray.config.loss import LossConfig
from afp_ray.config.model import ModelConfig
from afp_ray.config.names import OrPlugin
from afp_ray.config.training import TrainingConfig
from afp_ray.plugins import Names

_Methods = Literal[
    "base",
    "ft",
    "mcl",
    "mit",
    "mit_nfold",
    "cit",
    "mcl_mit",
    "coit",
    "crossin",
    "mid_align",
    "prealign",
    "alignx",
    "infoxlm",
    "afp",
    "afp_paper",
    "bloomz_560m",
    "bloomz_7b1",
    "polylm_1b7",
    "polylm_13b",
]
METHOD_NAMES = Names(plugins.METHODS, get_args(_Methods))
"""Methods by name, those of plug-ins included."""
MethodName = Annotated[_Methods, OrPlugin(METHOD_NAMES)]

SCORE_VERSION = 1
"""Raised by every change of the code that changes a score: it enters the trial id."""


class TrialConfig(StrictModel):
    """The whole recipe of one trial; `methods.resolve` has already pinned what its method pins."""

    model: ModelConfig = ModelConfig()
    method: MethodName = "afp"
    """Row of the ablation; the fields that it pins win over whatever else sets them."""
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = Field(default=0, ge=0)
    """Seed of row draws, batch order and dropout."""

    @model_validator(mode="after")
    def _terms_have_rows(self) -> Self:
        if self.training.max_steps == 0:
            return self
        if self.loss.contrastive_weight == 0 and self.loss.instruction_weight == 0:
            raise ValueError("both loss weights are 0, nothing would train; set one, or training.max_steps: 0")
        if self.loss.contrastive_weight > 0 and self.data.num_pairs in (0, 1):
            raise ValueError("the contrastive loss needs data.num_pairs >= 2; with one pair it is always 0")
        if self.loss.contrastive_weight > 0 and self.training.num_pairs_per_step < 2:
            raise ValueError(
                "the contrastive loss needs training.batch_size >= 2 or a training.pair_batch_size; "
                "with one pair it is always 0"
            )
        if self.loss.instruction_weight > 0 and not self.data.has_instructions:
            raise ValueError("the instruction loss needs data.num_instructions >= 1")
        return self

    @model_validator(mode="after")
    def _evaluated_languages_are_declared(self) -> Self:
        side = self.evaluation.generation.pivot
        self.data.require_languages((*self.evaluated_languages, *([side] if side else [])))
        return self

    @property
    def evaluated_languages(self) -> tuple[str, ...]:
        """Languages that are scored: those of all tasks, else the pivot followed by the trained ones."""
        if isinstance(self.evaluation.tasks, dict) and self.evaluation.tasks:
            return tuple(dict.fromkeys(code for codes in self.evaluation.tasks.values() for code in codes))
        return self.evaluation.languages or (self.data.pivot, *self.data.languages)

    @property
    def rows_per_step(self) -> int:
        """Training rows that one optimizer step reads: instructions and pairs, each where its term is on."""
        instructions = self.training.batch_size if self.loss.instruction_weight > 0 else 0
        return instructions + (self.training.num_pairs_per_step if self.loss.contrastive_weight > 0 else 0)


NO_MODEL: Mapping[str, str] = MappingProxyType({"unloadable": "model"})
"""Fingerprints of a trial whose model could not be loaded: it has failed under an id that no other trial bears."""


def trial_id(config: TrialConfig, fingerprints: Mapping[str, str]) -> str:
    """Content address of a trial: 16 hex digits.

    Args:
        config: the resolved trial.
        fingerprints: content hashes of what the paths and names of `config` point to ("model", "data",
            "evaluation"); they stand in for those paths, so that a moved folder keeps its trials.
    Returns: the first 16 hex digits of a SHA-256.
    """
    content = config.model_dump(mode="json")
    if "model" in fingerprints:
        content["model"].pop("name")
    if "data" in fingerprints:
        for source in content["data"]["sources"]:
            source.pop("path")
    if not content["data"]["language_names"]:  # ids of before it stay
        content["data"].pop("language_names")
    if "instruction_scores" in fingerprints:
        content["data"].pop("instruction_scores")
    if "evaluation" in fingerprints:
        content["evaluation"].pop("data_dir")
        content["evaluation"]["generation"].pop("spbleu_model")
        if content["evaluation"]["representation"]:
            content["evaluation"]["representation"]["source"].pop("path")
    if not config.evaluation.directions:
        content["evaluation"].pop("generation")
    elif not {"mgsm", "xquad_qa"} & set(config.evaluation.tasks):  # ids of before these tasks stay
        for name in ("question_form", "math_steps"):
            content["evaluation"]["generation"].pop(name)
    for name in ("demo_balance", "template", "scoring", "precision"):
        is_default = content["evaluation"][name] == EvaluationConfig.model_fields[name].default
        if is_default or name in config.evaluation.idle_fields:
            content["evaluation"].pop(name)
    if config.training.trainable == "all":
        content["training"].pop("trainable")
    if not config.evaluation.own_tasks:
        content["evaluation"].pop("own_tasks")
    elif "evaluation" in fingerprints:
        for task in content["evaluation"]["own_tasks"].values():
            task.pop("path")
    if config.loss.negatives_from == "other":
        content["loss"].pop("negatives_from")
    content["evaluation"]["languages"] = list(config.evaluated_languages)
    if isinstance(tasks := config.evaluation.tasks, dict):
        if len(set(tasks.values())) <= 1:
            content["evaluation"]["tasks"] = list(tasks)  # the same languages for all, in other words
        else:
            content["evaluation"]["languages"].sort()  # as the tasks, whose order in a mapping says nothing
    document = {"config": content, "fingerprints": dict(fingerprints), "score_version": SCORE_VERSION}
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()[:16]
