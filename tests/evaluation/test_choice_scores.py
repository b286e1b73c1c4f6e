"""What a choice is worth, demonstrations by class, several demonstration seeds, and what bad input gets."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afp_ray.config import EvaluationConfig, TrialConfig, trial_id
from afp_ray.errors import TaskError
from afp_ray.evaluation.choice_scores import choice_values, deviation, majority_accuracy
from afp_ray.evaluation.questions import balanced_classes, draw_balanced, load_rows, render_cells
from afp_ray.evaluation.run import evaluate_tasks
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.evaluation.task import Question
from afp_ray.evaluation.tasks import TASKS
from afp_ray.languages import LANGUAGES

QUESTION = Question((("Q", " four"), ("Q", " né"), ("Q", "12345678")), 0)
ROWS = {
    "xnli": {"premise": "It rained.", "hypothesis": "It was wet.", "label": "neutral"},
    "pawsx": {"sentence1": "It rained.", "sentence2": "Rain fell.", "label": "1"},
    "xcopa": {"premise": "It rained.", "choice1": "I stayed.", "choice2": "I left.", "question": "effect", "label": 0},
    "xwinograd": {"sentence": "Ana met Eva when _ was in town.", "option1": "Ana", "option2": "Eva", "answer": "2"},
}


def settings(*tasks: str, **fields: Any) -> EvaluationConfig:
    return EvaluationConfig.model_validate({"tasks": tasks, "representation": None, **fields})


@pytest.mark.parametrize(
    "scoring, expected",
    [
        ("sum", [-4.0, -3.0, -6.0]),
        ("length", [-1.0, -1.5, -0.75]),  # 4, 2 and 8 characters: one space before them is none
        ("bytes", [-1.0, -1.0, -0.75]),  # é is two bytes
        ("pmi", [-3.0, -2.5, 1.0]),
    ],
)
def test_a_choice_is_worth_what_its_option_says(scoring: str, expected: list[float]) -> None:
    assert choice_values(QUESTION, (-4.0, -3.0, -6.0), (-1.0, -0.5, -7.0), scoring=scoring) == expected


def test_the_deviation_is_that_of_a_sample_and_one_seed_has_none() -> None:
    assert deviation([0.5, 0.7]) == pytest.approx(0.02**0.5)
    assert deviation([0.5]) is None


def test_the_majority_is_the_most_frequent_right_answer() -> None:
    assert majority_accuracy([2, 0, 2, 1]) == 0.5
    assert majority_accuracy([1]) == 1.0


@pytest.mark.parametrize("template", ["afp", "harness"])
@pytest.mark.parametrize(
    "task, neutral",
    [
        ("xnli", ("right?", "right?", "right?")),
        ("pawsx", ("right?", "right?")),
        ("xcopa", None),
        ("xwinograd", ("Ana", "Eva")),
    ],
)
def test_the_neutral_context_keeps_the_words_of_the_template_and_drops_the_row(
    task: str, template: Any, neutral: tuple[str, ...] | None
) -> None:
    row = {"id": "0", "content_id": "0", **ROWS[task]}
    question = TASKS[task].example(row, LANGUAGES["en"], LANGUAGES["en"], template=template).question
    expected = neutral or (("so",) * 2 if template == "afp" else ("therefore",) * 2)
    assert tuple(context for context, _ in question.neutral) == expected
    for (_, asked), (_, alone) in zip(question.choices, question.neutral, strict=True):
        assert asked.endswith(alone)


def test_a_story_has_no_neutral_words_and_keeps_its_endings(tokenizer: Any, llama: Any) -> None:
    config = settings("xstorycloze", shots=(0, 1), limit=3)
    for cell in render_cells("xstorycloze", config, language="en", pivot="en", split="test"):
        for example in cell.examples:
            contexts = {context for context, _ in example.question.neutral}
            assert contexts == ({""} if cell.shots == 0 else contexts)
            assert all(context.endswith("\n\n") for context in contexts if context)
            endings = [continuation for _, continuation in example.question.choices]
            assert [continuation for _, continuation in example.question.neutral] == endings


@pytest.mark.parametrize("num_shots", [0, 2])
def test_pmi_takes_off_what_the_model_gives_the_answer_unasked(tokenizer: Any, llama: Any, num_shots: int) -> None:
    config = settings("xcopa", shots=(num_shots,), limit=6, scoring="pmi")
    result = evaluate_tasks(llama, tokenizer, config, languages=("en",), pivot="en", split="test")
    (cell,) = render_cells("xcopa", config, language="en", pivot="en", split="test")
    scorer = ContinuationScorer(llama, tokenizer)
    for example, prediction in zip(cell.examples, result.predictions, strict=True):
        asked, alone = scorer.score([example.question.choices, example.question.neutral])
        assert prediction.log_likelihoods == pytest.approx(asked, abs=1e-4)
        assert prediction.predicted == int(np.argmax(np.subtract(asked, alone)))


def test_every_seed_of_the_demonstrations_has_its_share_in_mean_and_deviation(tokenizer: Any, llama: Any) -> None:
    config = settings("pawsx", shots=(0, 2), demo_seeds=(0, 1, 2), limit=12)
    result = evaluate_tasks(llama, tokenizer, config, languages=("en",), pivot="en", split="test")
    none, some = result.scores
    assert none.demo_deviation is None
    means = [np.mean([p.correct for p in result.predictions if p.shots == 2 and p.demo_seed == i]) for i in range(3)]
    assert some.value == pytest.approx(np.mean(means))
    assert some.demo_deviation == pytest.approx(np.std(means, ddof=1))
    golds = Counter(p.gold for p in result.predictions if p.shots == 0)
    assert none.majority == some.majority == max(golds.values()) / 12


def demonstrations(example: Any) -> list[str]:
    return example.question.choices[0][0].split("\n\n")[:-1]


@pytest.mark.parametrize("task, words", [("xnli", ("Yes", "Also", "No")), ("pawsx", ("No", "Yes"))])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_balanced_demonstrations_show_every_class_alike(task: str, words: tuple[str, ...], split: Any) -> None:
    for num_shots in (len(words), 2 * len(words), len(words) + 1):
        config = settings(task, shots=(num_shots,), demo_seeds=(0, 1), demo_balance="class", limit=20)
        for cell in render_cells(task, config, language="en", pivot="en", split=split):
            for example in cell.examples:
                shown = Counter(re.search(r"\? (\w+),", text).group(1) for text in demonstrations(example))  # type: ignore[union-attr]
                assert sum(shown.values()) == num_shots
                assert set(shown) == set(words)
                assert max(shown.values()) - min(shown.values()) <= 1


def test_balance_is_of_cause_and_effect_where_no_label_shows() -> None:
    config = settings("xcopa", shots=(4,), demo_balance="class")
    (cell,) = render_cells("xcopa", config, language="en", pivot="en", split="test")
    texts = demonstrations(cell.examples[0])
    assert sum(" because " in text for text in texts) == sum(" so " in text for text in texts) == 2


def test_a_task_whose_demonstrations_show_no_class_is_drawn_as_ever() -> None:
    plain, balanced = (
        next(
            render_cells(
                "xwinograd",
                settings("xwinograd", shots=(2,), demo_balance=balance, limit=5),
                language="en",
                pivot="en",
                split="test",
            )
        )
        for balance in ("none", "class")
    )
    assert plain.examples == balanced.examples


def test_a_class_that_runs_out_is_refused() -> None:
    rows = [{"id": str(i), "content_id": str(i), "label": "a" if i else "b"} for i in range(5)]
    classes = balanced_classes(rows, "label", seed=0, count=4)
    assert Counter(classes) == {"a": 2, "b": 2}
    drawn = draw_balanced(rows, "label", classes, seed=0)
    assert Counter(row["label"] for row in drawn) == {"a": 2, "b": 1}


def test_which_class_comes_once_more_depends_on_the_seed() -> None:
    rows = [{"id": str(i), "content_id": str(i), "label": "abc"[i % 3]} for i in range(9)]
    assert (
        len({Counter(balanced_classes(rows, "label", seed=seed, count=4)).most_common(1)[0] for seed in range(9)}) > 1
    )


def test_precision_enters_the_trial_id_where_anything_is_scored() -> None:
    def identity(**evaluation: Any) -> str:
        return trial_id(TrialConfig.model_validate({"evaluation": evaluation}), {})

    assert identity() == identity(precision="fp32") == "054a20635bbb4c75"
    for task in ("xnli", "translation"):
        assert identity(tasks=(task,)) != identity(tasks=(task,), precision="bf16")
    assert identity(tasks=()) == identity(tasks=(), precision="bf16")


@pytest.mark.parametrize("field, value", [("template", "harness"), ("scoring", "pmi"), ("demo_balance", "class")])
def test_a_field_enters_the_trial_id_only_where_it_changes_a_score(field: str, value: str) -> None:
    def identity(tasks: tuple[str, ...], shots: int, **fields: str) -> str:
        evaluation = {"tasks": tasks, "shots": [shots], **fields}
        return trial_id(TrialConfig.model_validate({"evaluation": evaluation}), {})

    assert identity(("xnli",), 2) != identity(("xnli",), 2, **{field: value})
    assert identity(("translation",), 2) == identity(("translation",), 2, **{field: value})
    if field == "demo_balance":
        assert identity(("xnli",), 0) == identity(("xnli",), 0, **{field: value})


# What bad input gets.
def write_tsv(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_rows_without_a_hypothesis_or_premise_are_skipped_and_told(tokenizer: Any, llama: Any, tmp_path: Path) -> None:
    lines = [
        f"Premise {i // 3}.\tHypothesis {i}.\t{('entailment', 'neutral', 'contradiction')[i % 3]}" for i in range(18)
    ]
    lines[4], lines[9] = "Premise 1.\t \tneutral", "\tHypothesis 9.\tentailment"
    write_tsv(tmp_path / "xnli" / "dev-en.tsv", lines)
    rows = load_rows(TASKS["xnli"], str(tmp_path), "en")
    assert rows.num_skipped == 2
    kept = {row["id"]: row["content_id"] for part in rows.splits.values() for row in part}
    assert len(kept) == 16
    assert kept["dev:5"] == "dev:1"  # the others keep their names
    result = evaluate_tasks(
        llama, tokenizer, settings("xnli", data_dir=str(tmp_path)), languages=("en",), pivot="en", split="test"
    )
    assert result.warnings == ["xnli/en: 2 rows without text to score were skipped"]


@pytest.mark.parametrize("missing", ["", "NS", " NS "])
@pytest.mark.parametrize("template", ["afp", "harness"])
def test_rows_of_pawsx_without_a_sentence_are_skipped(tmp_path: Path, missing: str, template: Any) -> None:
    lines = [f"{i}\t甲{i}。\t乙{i}。\t{i % 2}" for i in range(8)] + [f"8\t甲\t{missing}\t0", f"9\t{missing}\t乙\t1"]
    write_tsv(tmp_path / "pawsx" / "zh" / "dev_2k.tsv", ["id\tsentence1\tsentence2\tlabel", *lines])
    config = settings("pawsx", data_dir=str(tmp_path), template=template)
    cells = [
        cell
        for split in ("validation", "test")
        for cell in render_cells("pawsx", config, language="zh", pivot="en", split=split)  # type: ignore[arg-type]
    ]
    assert [cell.num_skipped for cell in cells] == [2, 2]
    assert sum(len(cell.examples) for cell in cells) == 8
    assert not any("NS" in text for cell in cells for example in cell.examples for text in example.question.choices[0])


@pytest.mark.parametrize("template", ["afp", "harness"])
def test_demonstrations_beyond_the_models_positions_lose_their_beginning_and_are_counted(
    tokenizer: Any, make_model: Callable[..., Any], template: Any
) -> None:
    small, large = (make_model("llama", positions=positions) for positions in (128, 2048))
    config = settings("xnli", shots=(8,), limit=4, template=template)
    cut, whole = (
        evaluate_tasks(model, tokenizer, config, languages=("en",), pivot="en", split="test")
        for model in (small, large)
    )
    assert not whole.warnings
    assert cut.warnings == [
        "xnli/en at 8 shots: 12 contexts were longer than the model's 128 positions and were cut on the left"
    ]
    assert [p.example_id for p in cut.predictions] == [p.example_id for p in whole.predictions]


def test_an_answer_beyond_the_models_positions_is_refused_with_its_cell(
    tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    with pytest.raises(TaskError, match="does not fit the model") as caught:
        evaluate_tasks(
            make_model("llama", positions=24),
            tokenizer,
            settings("xnli", limit=4, template="harness"),
            languages=("zh",),
            pivot="en",
            split="test",
        )
    assert caught.value.where.startswith("xnli/zh at 0 shots")


def test_a_merge_across_the_joint_belongs_to_the_answer_of_every_choice(tokenizer: Any, llama: Any) -> None:
    context, answers = "The troph", ("y does not fit", " was too large")
    alone = tokenizer(context)["input_ids"]
    merged = tokenizer(context + answers[0])["input_ids"]
    assert merged[: len(alone)] != alone  # the tokenizer has one token for the end of the one and the other's beginning
    scorer = ContinuationScorer(llama, tokenizer)
    first, second = scorer.encode([[(context, answer) for answer in answers]])
    assert first.start == second.start < len(alone)
    assert list(first.ids) == merged


def test_an_empty_context_stands_after_one_beginning_even_where_the_tokenizer_adds_its_own(
    llama: Any, make_adding_tokenizer: Callable[[str], Any]
) -> None:
    plain, adding = make_adding_tokenizer("$A"), make_adding_tokenizer("<s> $A")
    assert adding("Mina")["input_ids"][0] == adding.bos_token_id
    pairs = [[("", " Mina is a doctor"), ("", " Adam")]]
    assert ContinuationScorer(llama, adding).encode(pairs) == ContinuationScorer(llama, plain).encode(pairs)
    request = ContinuationScorer(llama, adding).encode(pairs)[0]
    assert (request.ids[0], request.ids.count(adding.bos_token_id), request.start) == (adding.bos_token_id, 1, 1)


@pytest.fixture
def make_adding_tokenizer(tokenizer: Any) -> Callable[[str], Any]:
    """The tokenizer of these tests, with a template of the special tokens that it adds."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    def make(template: str) -> Any:
        raw = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        special = [("<s>", tokenizer.bos_token_id)]
        raw.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
        return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")

    return make
