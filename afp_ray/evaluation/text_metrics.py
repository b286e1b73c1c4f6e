"""How good a generated text is: BLEU, chrF++ and spBLEU by sacreBLEU, ROUGE over words of any script.

Shapes: N examples, R rows of totals.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afp_ray.data.readers.files import digest, expand_path, plain_file
from afp_ray.errors import TaskError
from afp_ray.languages import language_row

ORDER = 4
"""Longest n-gram of BLEU."""
NUM_TOTALS = 2 + 2 * ORDER
"""Numbers per sentence that BLEU is computed from: both lengths, matches and n-grams of each order."""
Floats = NDArray[np.float64]

# Scripts that put no space between words; a character of theirs, with its marks, is a word of its own.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x109F),  # Tibetan, Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


@dataclass(frozen=True, slots=True)
class TextMetric:
    """A number about generated texts and their references.

    Attributes:
        name: as scores call it.
        signature: how it is computed, in words that reproduce it.
        example: (text, reference) -> its own value, in [0, 1].
        corpus: (N texts, N references) -> value of them all, in [0, 1].
        totals: (text, reference) -> numbers whose sums over examples give the corpus value; null where the corpus value
            is the mean of the examples' values.
        of_totals: (R, numbers) sums -> (R,) corpus values; null where `totals` is.
    """

    name: str
    signature: str
    example: Callable[[str, str], float]
    corpus: Callable[[Sequence[str], Sequence[str]], float]
    totals: Callable[[str, str], tuple[float, ...]] | None = None
    of_totals: Callable[[Floats], Floats] | None = None


def bleu_tokenizer(language: str) -> str:
    """The sacreBLEU tokenizer that fits a target language.

    Chinese has one of its own; Korean, and languages without spaces between words, are scored on characters; the rest
    on 13a, the default.
    """
    if language == "zh":
        return "zh"
    return "char" if language == "ko" or language_row(language).space == "" else "13a"


def bleu(language: str) -> TextMetric:
    """BLEU of texts in `language`, corpus level, exponential smoothing, effective order.

    The effective order leaves out n-grams longer than any text, so that short sentences equal to their references score
    100, as other work on these models does too.

    Source: Post, A Call for Clarity in Reporting BLEU Scores, arXiv:1804.08771.
    """
    from sacrebleu.metrics import BLEU

    return _bleu("bleu", BLEU(tokenize=bleu_tokenizer(language), effective_order=True))


def spbleu(path: str) -> TextMetric:
    """BLEU over the pieces of a SentencePiece model, the same in every language.

    Raises: DataError when the file is not there; TaskError without the library.
    Source: Goyal et al., The FLORES-101 Evaluation Benchmark, arXiv:2106.03193.
    """
    from sacrebleu.metrics import BLEU

    file = plain_file(expand_path(path))
    try:
        import sentencepiece  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise TaskError(
            "spBLEU needs the library sentencepiece, which is not installed",
            where="evaluation.generation.spbleu_model",
            fix="pip install 'afp-ray[spbleu]', or set evaluation.generation.spbleu_model: null",
        ) from error
    processor = sentencepiece.SentencePieceProcessor(model_file=file.path)
    plain = _bleu("spbleu", BLEU(tokenize="none", effective_order=True, force=True))
    signature = plain.signature.replace("tok:none", f"tok:spm-{digest(file)[:12]}")

    def pieces(text: str) -> str:
        return " ".join(processor.encode(text, out_type=str))

    assert plain.totals is not None
    totals = plain.totals
    return TextMetric(
        "spbleu",
        signature,
        lambda text, reference: plain.example(pieces(text), pieces(reference)),
        lambda texts, references: plain.corpus([pieces(t) for t in texts], [pieces(r) for r in references]),
        lambda text, reference: totals(pieces(text), pieces(reference)),
        bleu_of_totals,
    )


def _bleu(name: str, scorer: Any) -> TextMetric:
    scorer.sentence_score("text", ["text"])  # the signature counts the references that were seen

    @cache
    def totals(text: str, reference: str) -> tuple[float, ...]:
        score = scorer.sentence_score(text, [reference])
        return (score.sys_len, score.ref_len, *score.counts, *score.totals)

    def corpus(texts: Sequence[str], references: Sequence[str]) -> float:
        sums = np.sum([totals(*pair) for pair in zip(texts, references, strict=True)], axis=0)
        return float(bleu_of_totals(sums[None])[0])

    signature = str(scorer.get_signature())
    return TextMetric(name, signature, lambda *pair: corpus(*([s] for s in pair)), corpus, totals, bleu_of_totals)


def bleu_of_totals(totals: Floats) -> Floats:
    """BLEU of sums of sentence totals, as sacreBLEU computes it with exponential smoothing and effective order.

    Args:
        totals: (R, 10) length of the texts and of the references, matches of orders 1 to 4, n-grams of orders 1 to 4.
    Returns: (R,) in [0, 1].
    """
    # Differences of sums must give plain zeros.
    totals = np.asarray(np.round(totals, 6), dtype=np.float64)
    length, reference = totals[:, 0], totals[:, 1]
    matches, counts = totals[:, 2 : 2 + ORDER], totals[:, 2 + ORDER :]
    is_present = np.cumprod(counts > 0, axis=1).astype(bool)  # orders up to the longest n-gram of the texts
    missed = is_present & (matches <= 0)
    # The first order without a match counts as half of one, the second as a quarter, and so on (exponential smoothing).
    smoothed: Floats = np.power(0.5, np.cumsum(missed, axis=1), dtype=np.float64)
    precision = np.where(missed, smoothed, matches) / np.where(counts > 0, counts, 1)
    logs = np.where(is_present, np.log(np.where(is_present, precision, 1)), 0).sum(axis=1)
    order = np.maximum(is_present.sum(axis=1), 1)
    brevity = np.where(length < reference, 1 - reference / np.where(length > 0, length, 1), 0)
    return np.where((matches > 0).any(axis=1), np.exp(brevity + logs / order), 0.0)


def chrf() -> TextMetric:
    """chrF++: characters up to order 6 and words up to order 2.

    Source: Popovic, chrF++: words helping character n-grams (2017).
    """
    from sacrebleu.metrics import CHRF

    scorer: Any = CHRF(word_order=2)
    scorer.sentence_score("text", ["text"])

    @cache
    def totals(text: str, reference: str) -> tuple[float, ...]:
        counts = scorer._extract_corpus_statistics([text], [[reference]])[0]  # the library shows them nowhere else
        return tuple(map(float, counts))

    return TextMetric(
        "chrf++",
        str(scorer.get_signature()),
        lambda text, reference: scorer.sentence_score(text, [reference]).score / 100,
        lambda texts, references: scorer.corpus_score(list(texts), [list(references)]).score / 100,
        totals,
        chrf_of_totals,
    )


def chrf_of_totals(totals: Floats) -> Floats:
    """The chrF of sums of sentence totals, as sacreBLEU computes it with effective order and double weight on recall.

    Args:
        totals: (R, 3 x orders) n-grams of the texts and of the references, and matches, order by order.
    Returns: (R,) in [0, 1].
    """
    own, wanted, matches = (totals[:, column::3] for column in range(3))  # order by order, three numbers each
    is_present = (own > 0) & (wanted > 0)
    order = np.maximum(is_present.sum(axis=1), 1)
    precision, recall = (
        np.where(is_present, matches / np.where(side > 0, side, 1), 0).sum(axis=1) / order for side in (own, wanted)
    )
    both = 4 * precision + recall  # F with beta = 2: (1 + 4) P R / (4 P + R)
    return np.asarray(np.where(both > 0, 5 * precision * recall / np.where(both > 0, both, 1), 0.0), dtype=np.float64)


def rouge(kind: str) -> TextMetric:
    """F-measure of ROUGE over words of any script, mean over examples.

    Args:
        kind: rouge1, rouge2 or rougeL.
    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004).
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=_Words())

    @cache
    def example(text: str, reference: str) -> float:
        return float(scorer.score(reference, text)[kind].fmeasure)

    def corpus(texts: Sequence[str], references: Sequence[str]) -> float:
        return fmean(example(*pair) for pair in zip(texts, references, strict=True))

    return TextMetric(kind, f"{kind} F1|tok:unicode words, characters without spaces|case:lower", example, corpus)


class _Words:
    """The tokenizer that the ROUGE library asks for."""

    def tokenize(self, text: str) -> list[str]:
        """Words of `text`."""
        return words(text)


def words(text: str) -> list[str]:
    """Words of a text in any script, in lower case, without punctuation.

    A word is a run of letters, digits and their marks; in scripts that put no space between words every character, with
    the marks that belong to it, is one.
    """
    parts: list[str] = []
    is_open = False
    for character in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(character)[0]
        if kind == "M" and parts and is_open:
            parts[-1] += character
        elif kind not in "LNM":
            is_open = False
        elif _is_unspaced(character) or not is_open or _is_unspaced(parts[-1][0]):
            parts.append(character)
            is_open = True
        else:
            parts[-1] += character
    return parts


def _is_unspaced(character: str) -> bool:
    code = ord(character)
    return any(low <= code <= high for low, high in _UNSPACED)


def translation_metrics(language: str, spbleu_model: str | None) -> tuple[TextMetric, ...]:
    """Metrics of translations into `language`, the main one first."""
    return (bleu(language), chrf(), *((spbleu(spbleu_model),) if spbleu_model else ()))


def summary_metrics() -> tuple[TextMetric, ...]:
    """Metrics of summaries, the main one first."""
    return tuple(rouge(kind) for kind in ("rouge1", "rouge2", "rougeL"))
