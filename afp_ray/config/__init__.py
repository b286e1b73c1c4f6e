"""Frozen, validated configuration of studies and trials; imports neither torch nor Ray."""

from afp_ray.config.base import StrictModel, canonical_json
from afp_ray.config.data import DataConfig, FilterLimits, SourceConfig
from afp_ray.config.evaluation import (
    CHOICE_TASKS,
    DEFAULT_TASKS,
    DIRECTIONS,
    GENERATED_SCORES,
    GENERATION_TASKS,
    SPLITS,
    WITHIN,
    EvaluationConfig,
    GenerationConfig,
    RepresentationConfig,
    Split,
)
from afp_ray.config.loss import LossConfig
from afp_ray.config.model import EMBEDDED, ModelConfig
from afp_ray.config.own_task import OwnTaskConfig
from afp_ray.config.runtime import RuntimeConfig, TrainingRuntime
from afp_ray.config.search import (
    BudgetConfig,
    ChoiceSpec,
    ConstraintConfig,
    FurtherObjective,
    ObjectiveConfig,
    PrunerConfig,
    RangeSpec,
    SamplerConfig,
    Scalar,
    TuneSpec,
)
from afp_ray.config.study import StudyConfig, flatten, nest
from afp_ray.config.training import TrainingConfig
from afp_ray.config.trial import METHOD_NAMES, SCORE_VERSION, TrialConfig, trial_id

__all__ = [
    "CHOICE_TASKS",
    "DEFAULT_TASKS",
    "DIRECTIONS",
    "EMBEDDED",
    "GENERATED_SCORES",
    "GENERATION_TASKS",
    "METHOD_NAMES",
    "SCORE_VERSION",
    "SPLITS",
    "WITHIN",
    "BudgetConfig",
    "ChoiceSpec",
    "ConstraintConfig",
    "DataConfig",
    "EvaluationConfig",
    "FilterLimits",
    "FurtherObjective",
    "GenerationConfig",
    "LossConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OwnTaskConfig",
    "PrunerConfig",
    "RangeSpec",
    "RepresentationConfig",
    "RuntimeConfig",
    "SamplerConfig",
    "Scalar",
    "SourceConfig",
    "Split",
    "StrictModel",
    "StudyConfig",
    "TrainingConfig",
    "TrainingRuntime",
    "TrialConfig",
    "TuneSpec",
    "canonical_json",
    "flatten",
    "nest",
    "trial_id",
]
