"""`template: harness` asks what lm-evaluation-harness asks, to the letter, in every language that it has."""

import json
from pathlib import Path
from typing import Any

import pytest
from harness_cases import goldens, harness_prompts, harness_task, languages

from afp_ray.config import CHOICE_TASKS, EvaluationConfig
from afp_ray.errors import TaskError
from afp_ray.evaluation.check import check_evaluation
from afp_ray.evaluation.questions import SEPARATOR
from afp_ray.evaluation.task import Question
from afp_ray.evaluation.tasks import TASKS
from afp_ray.evaluation.tasks.wording import PAWSX, XCOPA, XNLI
from afp_ray.languages import LANGUAGES

LANGUAGES_OF = {
    "xnli": tuple(XNLI),
    "pawsx": tuple(PAWSX),
    "xcopa": tuple(XCOPA),
    "xstorycloze": ("ar", "en", "es", "eu", "hi", "id", "my", "ru", "sw", "te", "zh"),
    "xwinograd": ("en", "fr", "ja", "pt", "ru", "zh"),
}
CASES = [(task, language) for task in CHOICE_TASKS for language in LANGUAGES_OF[task]]
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "harness.json").read_text("utf-8"))
SPACED = {
    "pawsx": {
        "sentence1": ' He said " no ( really ) " , but did n\'t go .',
        "sentence2": "It was ' fine , he said ;",
        "label": "1",
    },
    "xnli": {"premise": " It rained .  ", "hypothesis": " It was wet. ", "label": "neutral"},
    "xcopa": {
        "premise": " The lamp went out! ",
        "choice1": "It broke.",
        "choice2": "I slept.",
        "question": "effect",
        "label": 1,
    },
    "xwinograd": {"sentence": " Ana met Eva at _'s house . ", "option1": "Ana", "option2": " Eva", "answer": "2"},
}
"""Rows whose white space and signs only the harness keeps, or only it takes out."""


def question(task: str, language: str, row: dict[str, Any]) -> Question:
    own = LANGUAGES[language]
    return TASKS[task].example({"id": "0", "content_id": "0", **row}, own, own, template="harness").question


@pytest.mark.parametrize("task, language", CASES)
def test_a_prompt_is_as_the_golden_file_has_it(task: str, language: str) -> None:
    rendered = question(task, language, goldens(task)[language])
    assert [list(choice) for choice in rendered.choices] == GOLDEN[task][language]


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_the_harness_has_the_languages_that_we_take_it_to_have(task: str) -> None:
    assert languages(task) == sorted(LANGUAGES_OF[task], key=languages(task).index)


@pytest.mark.parametrize("num_shots", [0, 2])
@pytest.mark.parametrize("task, language", CASES)
def test_a_prompt_is_what_the_harness_sends(task: str, language: str, num_shots: int) -> None:
    rows = [goldens(task)[language]]
    rows += [SPACED[task]] if task in SPACED else []
    theirs = harness_prompts(harness_task(task, language, rows, rows[::-1] * 2), num_shots)
    asked = [question(task, language, row) for row in rows]
    shown = [question(task, language, row).answered for row in (rows[::-1] * 2)[:num_shots]]
    prefix = SEPARATOR.join([*shown, ""])
    assert theirs == [one.after(prefix).choices for one in asked]


@pytest.mark.parametrize("task, language", [("xnli", "ja"), ("pawsx", "th"), ("xcopa", "ar")])
def test_a_language_that_the_harness_lacks_is_refused_unless_the_pivot_lends_its_words(
    task: str, language: str
) -> None:
    row = {"id": "0", "content_id": "0", **goldens(task)["en"]}
    with pytest.raises(TaskError, match="the harness has no") as caught:
        TASKS[task].example(row, LANGUAGES[language], LANGUAGES[language], template="harness")
    assert "en" in caught.value.allowed
    assert "template: afp" in caught.value.fix
    TASKS[task].example(row, LANGUAGES[language], LANGUAGES["en"], template="harness")


def test_the_check_renders_the_chosen_template() -> None:
    check_evaluation(EvaluationConfig(tasks=("xnli",), template="harness"), languages=("en", "tr"), pivot="en")
    with pytest.raises(TaskError, match="no pawsx template in Turkish"):
        check_evaluation(EvaluationConfig(tasks=("pawsx",), template="harness"), languages=("tr",), pivot="en")
