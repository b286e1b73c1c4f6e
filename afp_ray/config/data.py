"""What a trial trains on: sources, languages, amounts and how prompt and response languages are mixed."""

from typing import Literal, Self

from pydantic import Field, model_validator

from afp_ray.config.base import StrictModel
from afp_ray.languages import LANGUAGES

SourceKind = Literal[
    "embedded", "tsv", "aligned", "tico19", "tatoeba", "flores", "ntrex", "opus100", "xquad", "mt_bench", "bactrian_x"
]


class SourceConfig(StrictModel):
    """One place where rows come from."""

    kind: SourceKind = "embedded"
    """Reader: `embedded` (pairs and instructions), `tsv` (two columns), `aligned` (one file a side, line by line),
    `tico19`, `tatoeba`, `flores`, `ntrex`, `opus100` (pairs), `xquad`, `mt_bench` (instructions), `bactrian_x`
    (instructions, and pairs from their instruction fields)."""
    path: str | None = None
    """File, folder or tar archive; `~` and `${AFP_DATA_DIR}` are expanded. A `tsv` or `aligned` path may hold
    `{source}` and `{target}`, which become the two language codes. `aligned` takes `news.{target}.txt` (one file a
    language), `corpus.{source}-{target}` (`corpus.en-zh.en` and `corpus.en-zh.zh`), or `{language}` for each side's
    own code. The other kinds take the folder of the corpus, its files named as released: `opus100` finds
    `en-zh/train-*.parquet`, `en-zh.parquet` or `opus.en2zh.tsv`, `bactrian_x` finds `zh.json` or `zh.json.gz`. Not
    for `embedded`."""

    @model_validator(mode="after")
    def _path_fits_kind(self) -> Self:
        if self.kind == "embedded" and self.path is not None:
            raise ValueError("the embedded source has no path; remove `path` or choose another `kind`")
        if self.kind != "embedded" and not self.path:
            raise ValueError(f"source kind {self.kind} needs a `path`")
        return self


class DataConfig(StrictModel):
    """Translation pairs and instructions of one trial."""

    sources: tuple[SourceConfig, ...] = Field(default=(SourceConfig(),), min_length=1)
    """Where pairs and instructions are read; each source gives what its kind holds."""
    pivot: str = "en"
    """Language on one side of every translation pair."""
    languages: tuple[str, ...] = Field(default=("zh",), min_length=1)
    """Languages to align with the pivot; the pivot itself is not listed."""
    num_pairs: int = Field(default=1000, ge=0)
    """Translation pairs over all languages together; 0 where the contrastive weight is 0."""
    num_instructions: int = Field(default=1000, ge=0)
    """Instruction rows over all languages together; 0 where the instruction weight is 0."""
    cross_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that the response language differs from the prompt language."""
    direction_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that a crossing row of a multilingual mix goes from a target language to the pivot."""
    translation_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the instruction rows that are translation tasks made from the pairs."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of the draw of rows; null follows the trial's seed."""

    @model_validator(mode="after")
    def _languages_are_known(self) -> Self:
        for code in (self.pivot, *self.languages):
            if code not in LANGUAGES:
                raise ValueError(f"language {code!r} is unknown; allowed: {', '.join(sorted(LANGUAGES))}")
        if self.pivot in self.languages:
            raise ValueError(f"the pivot {self.pivot!r} is also in `languages`; list the other languages only")
        if len(set(self.languages)) != len(self.languages):
            raise ValueError(f"`languages` repeats a code: {', '.join(self.languages)}")
        return self
