"""The original public files, in several languages, with the row counts that their publishers state."""

import os
from pathlib import Path

import pytest

from afp_ray.config import SPLITS, EvaluationConfig
from afp_ray.evaluation.check import check_evaluation
from afp_ray.evaluation.questions import load_rows, render_cells
from afp_ray.evaluation.tasks import TASKS

pytestmark = pytest.mark.shared_data


@pytest.fixture
def data_dir() -> str:
    folder = Path(os.environ.get("AFP_DATA_DIR") or Path(__file__).parents[2].parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data under {folder}; set AFP_DATA_DIR")
    return str(folder)


XNLI_LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")


@pytest.mark.parametrize(
    "task, language, validation, test, skipped",
    [
        *(("xnli", language, 1245, 1245, 0) for language in ("en", "zh", "th", "ar", "ur")),
        ("pawsx", "en", 2000, 2000, 0),
        ("pawsx", "zh", 1984, 1975, 41),
        ("pawsx", "de", 966, 966, 68),
        ("pawsx", "ko", 983, 982, 35),
        ("xcopa", "en", 400, 500, 0),
        *(("xcopa", language, 100, 500, 0) for language in ("zh", "th", "tr", "sw", "ht", "qu")),
        *(("xstorycloze", language, 180, 180, 0) for language in ("en", "es", "hi", "zh")),
    ],
)
def test_rows_are_as_many_as_the_publisher_states(
    data_dir: str, task: str, language: str, validation: int, test: int, skipped: int
) -> None:
    rows = load_rows(TASKS[task], data_dir, language)
    assert (len(rows.splits["validation"]), len(rows.splits["test"]), rows.num_skipped) == (validation, test, skipped)


@pytest.mark.parametrize(
    "language, count", [("en", 2325), ("ja", 959), ("pt", 263), ("ru", 305), ("fr", 83), ("zh", 16)]
)
def test_winograd_rows_have_a_gap_where_the_pronoun_was(data_dir: str, language: str, count: int) -> None:
    rows = load_rows(TASKS["xwinograd"], data_dir, language)
    both = [row for split in SPLITS for row in rows.splits[split]]
    assert len(both) == count  # ten Russian rows end in their pronoun, so that nothing is left to score
    assert all(row["sentence"].count("_") == 1 for row in both)
    assert abs(len(rows.splits["validation"]) - len(rows.splits["test"])) <= 0.1 * count


def test_a_known_winograd_row_is_read_as_it_is(data_dir: str) -> None:
    rows = load_rows(TASKS["xwinograd"], data_dir, "en").splits
    row = next(
        row
        for split in SPLITS
        for row in rows[split]
        if row["sentence"] == "The trophy doesn't fit into the brown suitcase because _ is too large."
    )
    assert (row["option1"], row["option2"], row["answer"]) == ("The trophy", "suitcase", "1")


@pytest.mark.parametrize("task", [name for name in TASKS if name != "xwinograd"])
def test_contents_are_the_same_in_every_language(data_dir: str, task: str) -> None:
    languages = {"xnli": XNLI_LANGUAGES, "xcopa": ("zh", "th", "sw"), "xstorycloze": ("en", "hi", "zh")}
    splits = [load_rows(TASKS[task], data_dir, language).splits for language in languages.get(task, ("en", "zh"))]
    for split in SPLITS:
        contents = [{row["content_id"] for row in rows[split]} for rows in splits]
        shared = set.intersection(*contents)
        assert len(shared) >= 0.95 * len(contents[0])


def test_the_whole_evaluation_of_the_files_passes_its_check(data_dir: str) -> None:
    for task, languages in {
        "xnli": XNLI_LANGUAGES,
        "pawsx": ("de", "en", "es", "fr", "ja", "ko", "zh"),
        "xcopa": ("en", "et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"),
        "xstorycloze": ("ar", "en", "es", "hi", "id", "ru", "sw", "zh"),
        "xwinograd": ("en", "ja", "ru", "pt", "fr", "zh"),
    }.items():
        config = EvaluationConfig(tasks=(task,), data_dir=data_dir, shots=(0, 2), limit=200)  # type: ignore[arg-type]
        check_evaluation(config, languages=languages, pivot="en")


def test_labels_of_the_files_are_balanced_as_published(data_dir: str) -> None:
    config = EvaluationConfig(tasks=("xnli",), data_dir=data_dir)
    for split in SPLITS:
        (cell,) = render_cells("xnli", config, language="sw", pivot="en", split=split)
        golds = [example.question.gold for example in cell.examples]
        assert [golds.count(label) for label in range(3)] == [415, 415, 415]
