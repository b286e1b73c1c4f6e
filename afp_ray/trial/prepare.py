"""The rows of a trial as it trains on them: read, held-out sentences taken out, filtered, drawn, tokenised once.

A trial, an inspection of its recipe and the file that `afp data build` writes all come through here, so that what is
shown is what is trained on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from afp_ray.config import SPLITS, DataConfig, Split, TrialConfig
from afp_ray.data import sources
from afp_ray.data.drawing import draw_pairs, remove_heldout
from afp_ray.data.mixing import draw_instructions
from afp_ray.data.rows import Instruction, ParallelInstruction, TranslationPair
from afp_ray.languages import declare
from afp_ray.models.describe import describe

if TYPE_CHECKING:  # inspecting a recipe must not wait for torch
    from afp_ray.data.quality.report import FilterReport
    from afp_ray.data.tokens import InstructionTokens, PairTokens
    from afp_ray.models.load import LoadedModel


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that a trial may train on, before its seed draws among them.

    Attributes:
        pairs: translation pairs, none of which shares a sentence with a held-out pair.
        instructions: parallel instructions.
        num_heldout: pairs taken out because retrieval is measured on their sentences.
        report: what the quality filter dropped; None where the recipe has none.
    """

    pairs: Sequence[TranslationPair]
    instructions: Sequence[ParallelInstruction]
    num_heldout: int
    report: "FilterReport | None"


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """Rows that a trial trains on.

    Attributes:
        pairs: translation pairs, which the translation tasks are made from as well.
        instructions: instructions.
    """

    pairs: Sequence[TranslationPair]
    instructions: Sequence[Instruction]


def retrieval_languages(config: TrialConfig) -> tuple[str, ...]:
    """Languages whose alignment with the pivot is measured: those that the study aligns."""
    return config.data.languages if config.evaluation.representation is not None else ()


def heldout_pairs(config: TrialConfig, language: str, split: Split) -> list[TranslationPair]:
    """Pairs of `language` that retrieval is measured on and nothing is trained on.

    Raises: DataError when the source has too few.
    """
    representation = config.evaluation.representation
    assert representation is not None
    return sources.load_heldout_pairs(
        representation.source,
        pivot=config.data.pivot,
        language=language,
        split=split,
        num_pairs=representation.num_pairs,
    )


def needs_model(data: DataConfig) -> bool:
    """Whether rows are chosen by scores of the untrained model."""
    rates = data.keep_best is not None and data.instruction_scores is None and data.has_instructions
    return rates or data.filter == "similarity"


def read_candidates(config: TrialConfig, model: "LoadedModel | None" = None) -> Candidates:
    """Read and filter what the trial may draw from.

    Args:
        config: the resolved trial.
        model: the untrained model, for recipes that `needs_model`; left as it is.
    Raises: DataError for sources that cannot be read, or when the filter leaves nothing.
    """
    from afp_ray.data.quality.filter import apply_filter

    declare(config.data.declared)
    pairs, instructions = _rows(config.data)
    heldout = [
        pair
        for language in retrieval_languages(config)
        for split in SPLITS
        for pair in heldout_pairs(config, language, split)
    ]
    # A corpus may serve both; what retrieval is measured on is never trained on.
    pairs, num_heldout = remove_heldout(pairs, heldout)
    scorers: dict[str, Any] = {}
    if needs_model(config.data):
        assert model is not None, "this recipe scores its rows with the model"
        scorers = {"embed": _embedder(model), "rate": _rater(model)}
    filtered = apply_filter(pairs, instructions, config.data, **scorers)
    return Candidates(filtered.pairs, filtered.instructions, num_heldout, filtered.report)


def draw_rows(config: TrialConfig, candidates: Candidates) -> DrawnRows:
    """Draw the rows of the trial by its seed.

    Raises: DataError when there are too few.
    """
    data = config.data
    declare(data.declared)
    seed = data.seed if data.seed is not None else config.seed
    num_pairs = len(candidates.pairs) if data.num_pairs == "all" else data.num_pairs
    pairs = draw_pairs(candidates.pairs, num_pairs=num_pairs, seed=seed, temperature=data.language_temperature)
    return DrawnRows(pairs, draw_instructions(candidates.instructions, pairs, data, seed=seed))


def tokenized_rows(
    config: TrialConfig, model: "LoadedModel"
) -> "tuple[PairTokens | Sequence[TranslationPair], InstructionTokens | Sequence[Instruction]]":
    """Tokens of the trial's pairs and instructions; a trial of the same rows finds them ready, and reads nothing.

    Args:
        config: the resolved trial.
        model: the untrained model, whose tokenizer is used and which may score rows; left as it is.
    Returns: both as `TrainingBatches` takes them; () for a term without weight.
    Raises: DataError as `read_candidates` and `draw_rows`.
    """
    from afp_ray.data.token_cache import cached_instructions, cached_pairs
    from afp_ray.data.token_keys import recipe_keys

    drawn: list[DrawnRows] = []

    def rows() -> DrawnRows:
        if not drawn:
            drawn.append(draw_rows(config, read_candidates(config, model)))
        return drawn[0]

    keys = recipe_keys(
        config.data, seed=config.seed, heldout=_heldout_key(config), model=describe(config.model).fingerprint
    )
    pairs: PairTokens | Sequence[TranslationPair] = ()
    instructions: InstructionTokens | Sequence[Instruction] = ()
    if config.loss.contrastive_weight > 0:
        pairs = cached_pairs(keys.pairs, model.tokenizer, lambda: rows().pairs)
    if config.loss.instruction_weight > 0:
        instructions = cached_instructions(keys.instructions, model.tokenizer, lambda: rows().instructions)
    return pairs, instructions


def _embedder(model: "LoadedModel") -> Any:
    """States of texts at half of the blocks, where sentences of different languages are nearest to each other."""
    from afp_ray.models.embedding import embed_texts

    return partial(embed_texts, model.model, model.tokenizer, layer=model.num_layers // 2)


def _rater(model: "LoadedModel") -> Any:
    from afp_ray.evaluation.rating import rate_instructions

    return partial(rate_instructions, model.model, model.tokenizer)


def _heldout_key(config: TrialConfig) -> dict[str, Any] | None:
    """JSON of all that decides the held-out pairs, for the name of cached tokens."""
    representation, languages = config.evaluation.representation, retrieval_languages(config)
    if representation is None:
        return None
    return {
        "source": representation.source.model_dump(mode="json", exclude={"path"}),
        "fingerprint": sources.heldout_fingerprint(representation.source, config.data.pivot, languages),
        "num_pairs": representation.num_pairs,
    }


def read_texts(config: TrialConfig) -> Iterator[str]:
    """Every text of the sources that a trial draws from, on both sides."""
    pairs, instructions = _rows(config.data)
    for pair in pairs if config.data.has_pairs or config.data.translation_share else ():
        yield from (pair.source, pair.target)
    for instruction in instructions if config.data.has_instructions else ():
        yield from (*instruction.prompts.values(), *instruction.responses.values())


def _rows(data: DataConfig) -> tuple[Sequence[TranslationPair], Sequence[ParallelInstruction]]:
    """Rows of the sources, read once per process: warm actors run many trials on the same files."""
    readable = sources.reading_config(data)
    return _read_rows(readable, sources.fingerprint(readable))


@lru_cache(maxsize=4)
def _read_rows(data: DataConfig, fingerprint: str) -> tuple[Sequence[TranslationPair], Sequence[ParallelInstruction]]:
    del fingerprint  # part of the key, so that a changed file is read again
    return sources.load_pairs(data), sources.load_instructions(data)
