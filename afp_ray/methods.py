"""The arms of an ablation: each method is a row of pinned `TrialConfig` fields, what it leaves idle included.

A pinned field wins over every other place that sets it and leaves the search space of its arm, so that
`cit` is never tuned into `afp`. Source: AFP, arXiv:2311.08089; CoIT, arXiv:2308.04948.
"""

from collections.abc import Mapping
from typing import Any

Pins = Mapping[str, Any]

_NO_CONTRASTIVE_TERM: Pins = {
    "loss.contrastive_weight": 0.0,
    "loss.temperature": 0.05,
    "loss.layer": 1,
    "loss.pooling": "last",
    "loss.symmetric": False,
    "loss.negatives": "global",
    "training.pair_batch_size": None,
}
_NO_INSTRUCTION_TERM: Pins = {
    "loss.instruction_weight": 0.0,
    "data.num_instructions": 0,
    "data.cross_probability": 0.5,
    "data.direction_probability": 0.5,
    "data.translation_share": 0.0,
}
_INSTRUCTIONS_ALONE: Pins = {
    **_NO_CONTRASTIVE_TERM,
    "loss.instruction_weight": 1.0,
    "data.num_pairs": 0,
    "data.translation_share": 0.0,
}

METHODS: Mapping[str, Pins] = {
    # The model as it is. Nothing is random, so its seed is pinned too: one trial stands for every seed.
    "base": {
        **_NO_CONTRASTIVE_TERM,
        **_NO_INSTRUCTION_TERM,
        "data.num_pairs": 0,
        "data.seed": None,
        "seed": 0,
        "training.max_steps": 0,
        "training.learning_rate": 1e-5,
        "training.schedule": "cosine",
        "training.warmup_ratio": 0.03,
        "training.weight_decay": 0.0,
        "training.max_grad_norm": 1.0,
        "training.batch_size": 16,
    },
    # Parallel text only, as translation tasks under the next-token loss.
    "ft": {
        **_NO_CONTRASTIVE_TERM,
        "loss.instruction_weight": 1.0,
        "data.cross_probability": 1.0,
        "data.translation_share": 1.0,
    },
    # Contrastive term alone.
    "mcl": {**_NO_INSTRUCTION_TERM, "loss.contrastive_weight": 1.0},
    # Multilingual instruction tuning: prompt and response share a language.
    "mit": {**_INSTRUCTIONS_ALONE, "data.cross_probability": 0.0, "data.direction_probability": 0.5},
    # Cross-lingual instruction tuning: they never do.
    "cit": {**_INSTRUCTIONS_ALONE, "data.cross_probability": 1.0},
    # Both terms without crossing: isolates what crossing adds.
    "mcl_mit": {"loss.contrastive_weight": 1.0, "data.cross_probability": 0.0, "data.translation_share": 0.0},
    # Pivot and target monolingual instructions and translation instructions, no contrastive term.
    "coit": {
        **_NO_CONTRASTIVE_TERM,
        "loss.instruction_weight": 1.0,
        "data.cross_probability": 0.0,
        "data.direction_probability": 0.5,
        "data.translation_share": 1 / 3,
    },
    # Align aFter Pre-train, with the defects of the published code mended; the rest is open to search.
    "afp": {"loss.contrastive_weight": 1.0},
    # The published choices, all of them.
    "afp_paper": {
        "loss.contrastive_weight": 1.0,
        "loss.instruction_weight": 1.5,
        "loss.temperature": 0.05,
        "loss.layer": 1,
        "loss.pooling": "last",
        "loss.symmetric": False,
        "loss.negatives": "global",
        "data.cross_probability": 0.5,
        "data.direction_probability": 0.5,
        "training.learning_rate": 1e-5,
        "training.schedule": "cosine",
        "training.warmup_ratio": 0.03,
        "training.weight_decay": 0.0,
        "training.max_grad_norm": 1.0,
        "training.max_length": 512,
    },
}


def pins(method: str) -> Pins:
    """Fields that `method` pins, by dotted name.

    Raises: KeyError for a name that is no method; the config room refuses it before.
    """
    return METHODS[method]
