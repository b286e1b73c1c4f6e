"""What a trial trains on: sources, languages, amounts and how prompt and response languages are mixed."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from afp_ray import plugins
from afp_ray.config.base import StrictModel
from afp_ray.config.names import OrPlugin
from afp_ray.languages import Language, described, is_known, may_be_declared, unknown_language
from afp_ray.plugins import Names

_Kinds = Literal[
    "embedded",
    "tsv",
    "aligned",
    "tico19",
    "tatoeba",
    "flores",
    "ntrex",
    "opus100",
    "udhr",
    "xquad",
    "mt_bench",
    "bactrian_x",
    "jsonl",
    "datasets",
]
SOURCE_KINDS = Names(plugins.SOURCES, get_args(_Kinds))
"""Kinds of sources by name, those of plug-ins included."""
SourceKind = Annotated[_Kinds, OrPlugin(SOURCE_KINDS)]
PAIR_COLUMNS = frozenset({"source", "target"})
INSTRUCTION_COLUMNS = frozenset({"id", "instruction", "input", "output"})


class SourceConfig(StrictModel):
    """One place where rows come from."""

    kind: SourceKind = "embedded"
    """Reader: `embedded` (pairs and instructions), `tsv` (two columns), `aligned` (one file a side, line by line),
    `tico19`, `tatoeba`, `flores`, `ntrex`, `opus100`, `udhr` (pairs), `xquad`, `mt_bench` (instructions), `bactrian_x`
    (instructions, and pairs from their instruction fields), `jsonl` and `datasets` (either, by their `columns`)."""
    path: str | None = None
    """File, folder or archive (tar, zip); `~` and `${AFP_DATA_DIR}` are expanded. A `tsv` or `aligned` path may hold
    `{source}` and `{target}`, which become the two languages: by their codes, or as the names of the files spell them
    where the codes are not there (`zh_CN`, `zho_Hans`, `pt-BR`). `aligned` takes `news.{target}.txt` (one file a
    language), `corpus.{source}-{target}` (`corpus.en-zh.en` and `corpus.en-zh.zh`), `{language}` for each side's
    own code, or the folder or archive that holds both files (`en-zh_CN.txt.zip`); its files hold a sentence a line, or
    objects with `text` and perhaps `id`, as `flores` finds them in FLORES+ (`devtest/cmn_Hans.jsonl`). `jsonl` takes
    one object a line and `datasets` any data set id or local folder, both with `columns`.
    The other kinds take the folder of the corpus, its files named as released: `opus100` finds
    `en-zh/train-*.parquet`, `en-zh.parquet` or `opus.en2zh.tsv`, `bactrian_x` finds `zh.json` or `zh.json.gz`. Not
    for `embedded`."""
    columns: dict[str, str] | None = None
    """Columns of `jsonl` and `datasets`: `{source: translation.{source}, target: translation.{target}}` for pairs,
    `{id: id, instruction: prompt, input: context, output: answer}` for instructions (`input` may be left out). A dot
    goes into a nested column; `{source}`, `{target}` and `{language}` become language codes."""
    subset: str | None = None
    """Configuration name of a `datasets` source, for instance `{source}-{target}` or `{language}`; null takes the
    only one."""
    split: str = "train"
    """Split of a `datasets` source."""

    @model_validator(mode="after")
    def _columns_fit_kind(self) -> Self:
        if self.kind not in ("jsonl", "datasets"):
            if self.columns is not None or self.subset is not None or self.split != "train":
                raise ValueError(f"source kind {self.kind} has its own columns; remove `columns`, `subset` and `split`")
            return self
        names = frozenset(self.columns or {})
        if names != PAIR_COLUMNS and not (names <= INSTRUCTION_COLUMNS and names >= INSTRUCTION_COLUMNS - {"input"}):
            raise ValueError(
                f"source kind {self.kind} needs `columns` named source and target (pairs), or id, instruction, output "
                f"and perhaps input (instructions); got {', '.join(sorted(names)) or 'none'}"
            )
        if self.kind == "jsonl" and (self.subset is not None or self.split != "train"):
            raise ValueError("a jsonl source has neither `subset` nor `split`; remove them")
        return self

    @property
    def holds_pairs(self) -> bool:
        """Whether a source with `columns` holds translation pairs rather than instructions."""
        return frozenset(self.columns or {}) == PAIR_COLUMNS

    @model_validator(mode="after")
    def _path_fits_kind(self) -> Self:
        if self.kind == "embedded" and self.path is not None:
            raise ValueError("the embedded source has no path; remove `path` or choose another `kind`")
        if self.kind != "embedded" and not self.path:
            raise ValueError(f"source kind {self.kind} needs a `path`")
        return self


class FilterLimits(StrictModel):
    """What the quality filter lets pass; a limit of null switches its rule off."""

    max_length_ratio: float | None = Field(default=3.0, gt=1)
    """Longest a side may be, in characters, against what the other side leads to expect in that language pair."""
    min_script_share: float | None = Field(default=0.5, gt=0, le=1)
    """Share of the letters of a side that its language's script must write."""
    min_language_confidence: float | None = Field(default=0.5, gt=0, le=1)
    """A side that language identification gives to another language with at least this confidence is dropped."""
    max_noise_probability: float | None = Field(default=0.5, gt=0, lt=1)
    """Probability of being misaligned (swapped, cut off) above which a row is dropped. It is learned from the rows of
    the language pair, 200 at least; under `filter: similarity` the margin similarity of the sides enters it too."""
    min_similarity: float | None = Field(default=None, ge=-2, le=2)
    """Least margin similarity of two sides under `filter: similarity`, by pooled states of the untrained model; null
    sets no limit of its own, since what a good row reaches depends on model and language."""
    near_duplicate: float | None = Field(default=0.9, gt=0, le=1)
    """Overlap of character shingles from which two rows count as near duplicates."""


Amount = Annotated[int, Field(ge=0, le=1_000_000_000)] | Literal["all"]
"""Rows to draw, or all that there are."""
WordName = Literal["right", "yes", "also", "no", "because", "so"]
"""As `languages.WORDS`."""


class LanguageName(StrictModel):
    """What a language is called and written in, where the table has nothing or something else."""

    name: str | None = Field(default=None, min_length=1, max_length=64)
    """English name, as prompts use it ("Answer in Amharic:")."""
    script: str | None = Field(default=None, pattern=r"^[A-Z][a-z]{3}$")
    """ISO 15924 code: `Latn`, `Ethi`, ..."""
    words: dict[WordName, Annotated[str, Field(min_length=1)]] = {}
    """Prompt words, for tasks that ask for them: `because` and `so` for XCOPA, `right`, `yes`, `also` and `no`."""


class DataConfig(StrictModel):
    """Translation pairs and instructions of one trial."""

    sources: tuple[SourceConfig, ...] = Field(default=(SourceConfig(),), min_length=1)
    """Where pairs and instructions are read; each source gives what its kind holds."""
    pivot: str = "en"
    """Language on one side of every translation pair."""
    languages: tuple[str, ...] = Field(default=("zh",), min_length=1)
    """Languages to align with the pivot, by their ISO 639 codes; the pivot itself is not listed."""
    language_names: dict[str, LanguageName] = {}
    """Names, scripts and prompt words of languages, by code: `{gsw: {name: Swiss German, script: Latn}}`. Needed where
    the table lacks a code of ISO 639-3; elsewhere it corrects the table, of which what is not given stays."""
    num_pairs: Amount = 1000
    """Translation pairs over all languages together; 0 where the contrastive weight is 0. `all` takes every pair that
    the filter and the held-out sentences leave, of each language as many as there are."""
    num_instructions: Amount = 1000
    """Instruction rows over all languages together; 0 where the instruction weight is 0. `all` takes each instruction
    once (times `instruction_folds`), and the translation tasks that their share asks beside them; where all are
    translation tasks, one of each pair."""
    cross_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that the response language differs from the prompt language."""
    direction_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that a crossing row of a multilingual mix, or a translation task, goes from a target language to the
    pivot; idle for rows that cross between any two languages."""
    crossing: Literal["pivot", "any"] = "pivot"
    """Languages of a crossing row: the pivot and another one, as published, or any two, each ordered pair alike
    (CrossIn, arXiv:2404.11932); the same where `languages` names one."""
    translation_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the instruction rows that are translation tasks made from the pairs."""
    language_temperature: float | None = Field(default=None, gt=0, le=1e6)
    """Pairs are drawn from language l in proportion to (its number of pairs) ** (1 / temperature): 1 follows the
    amounts, larger values flatten them; null draws every language alike. Translation tasks follow the drawn pairs."""
    instruction_folds: Annotated[int, Field(ge=1, le=10_000)] | Literal["languages"] = 1
    """Rows made of each drawn instruction, each with other languages as far as there are: `num_instructions` rows
    stand for 1/folds as many instructions. `languages` is the number of languages, the pivot included."""
    filter: Literal["none", "rules", "similarity"] = "none"
    """Quality filter of pairs and instructions: none, the rules on text alone, or these and cross-lingual similarity
    by the untrained model."""
    filter_limits: FilterLimits = FilterLimits()
    """Limits of the filter; idle while `filter` is none."""
    keep_best: int | None = Field(default=None, ge=1)
    """Instructions to keep, by score, before any is drawn (AlpaGasus keeps 9,000 of 52,000, arXiv:2307.08701)."""
    instruction_scores: str | None = None
    """JSONL with `id` and `score` (higher is better) for `keep_best`; null scores with the untrained model."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of the draw of rows; null follows the trial's seed."""

    @model_validator(mode="after")
    def _languages_are_known(self) -> Self:
        for code, own in self.language_names.items():
            if not is_known(code):
                if not may_be_declared(code):
                    raise ValueError(f"language {unknown_language(code)}")
                if own.name is None or own.script is None:
                    lacking = "name" if own.name is None else "script"
                    raise ValueError(f"language_names.{code} has no {lacking}; the table lacks {code}, so give both")
        self.require_languages((self.pivot, *self.languages))
        if self.pivot in self.languages:
            raise ValueError(f"the pivot {self.pivot!r} is also in `languages`; list the other languages only")
        if len(set(self.languages)) != len(self.languages):
            raise ValueError(f"`languages` repeats a code: {', '.join(self.languages)}")
        return self

    def require_languages(self, codes: Iterable[str]) -> None:
        """Refuse a language that is neither in the table nor declared.

        Raises: ValueError saying what to write.
        """
        for code in codes:
            if not is_known(code) and code not in self.language_names:
                raise ValueError(f"language {unknown_language(code)}")

    @property
    def has_pairs(self) -> bool:
        """Whether any translation pair is drawn."""
        return self.num_pairs != 0

    @property
    def has_instructions(self) -> bool:
        """Whether any instruction row is drawn."""
        return self.num_instructions != 0

    @property
    def declared(self) -> dict[str, Language]:
        """The rows of `language_names`, by code."""
        return {
            code: described(code, name=own.name, script=own.script, words=dict[str, str](own.words.items()))
            for code, own in self.language_names.items()
        }

    @property
    def num_folds(self) -> int:
        """Rows made of each drawn instruction."""
        return 1 + len(self.languages) if self.instruction_folds == "languages" else self.instruction_folds
