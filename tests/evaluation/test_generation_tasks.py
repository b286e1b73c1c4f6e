"""Generation tasks: golden prompts, rows, original layouts, refusals, demonstrations, scores and predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from sacrebleu.metrics import BLEU

from afp_ray.config import (
    DIRECTIONS,
    GENERATED_SCORES,
    GENERATION_TASKS,
    SPLITS,
    EvaluationConfig,
    GenerationConfig,
    TrialConfig,
    trial_id,
)
from afp_ray.data import embedded
from afp_ray.errors import DataError, TaskError, UserError
from afp_ray.evaluation.answer_rate import language_of
from afp_ray.evaluation.cell_scoring import ScoringHost
from afp_ray.evaluation.check import check_evaluation, evaluation_fingerprint
from afp_ray.evaluation.generation_tasks import GENERATION
from afp_ray.evaluation.objective import allowed_metrics, objective_value
from afp_ray.evaluation.predictions import Prediction, read_predictions, write_predictions
from afp_ray.evaluation.prompts import generation_cells, load_direction, sides
from afp_ray.evaluation.run import evaluate_tasks
from afp_ray.evaluation.text_metrics import bleu_of_totals
from afp_ray.languages import LANGUAGES

GOLDEN = Path(__file__).parent.parent / "golden"


def config(
    *tasks: str, data_dir: Path | None = None, shots: Any = (0,), limit: int | None = None, **fields: Any
) -> Any:
    return EvaluationConfig(
        tasks=tasks,  # type: ignore[arg-type]
        data_dir=str(data_dir) if data_dir else None,
        shots=shots,
        limit=limit,
        representation=None,
        generation=GenerationConfig(**fields),
    )


def cell(
    direction: str, settings: EvaluationConfig, language: str = "zh", split: Any = "test", pivot: str = "en"
) -> Any:
    return next(generation_cells(direction, settings, language=language, pivot=pivot, split=split))


def test_every_task_of_the_config_is_registered_under_its_name() -> None:
    assert tuple(GENERATION) == GENERATION_TASKS == tuple(DIRECTIONS)
    assert all(task.name == name for name, task in GENERATION.items())
    assert GENERATED_SCORES[:2] == ("translation", "translation_to_pivot")


def golden_cases() -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}-{case['source']}-{case['target']}-{case['form']}")
        for name in GENERATION_TASKS
        for case in json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    ]


@pytest.mark.parametrize("name, case", golden_cases())
def test_prompts_are_rendered_to_the_letter(name: str, case: dict[str, Any]) -> None:
    settings = GenerationConfig(**case.get("settings", {"translation_form": case["form"]}))
    source, target = LANGUAGES[case["source"]], LANGUAGES[case["target"]]
    prompt = GENERATION[name].prompt(case["row"], source, target, settings)
    assert prompt == case["prompt"]
    assert f"{prompt} {case['row']['target']}" == case["answered"]


EMBEDDED_SCORES = [name for name in GENERATED_SCORES if name != "mgsm"]
EMBEDDED_TASKS = tuple(name for name in GENERATION_TASKS if name != "mgsm")


def task_name(direction: str) -> str:
    return next(name for name, directions in DIRECTIONS.items() if direction in directions)


@pytest.mark.parametrize("direction", EMBEDDED_SCORES)
@pytest.mark.parametrize("language", [code for code in embedded.LANGUAGES if code != "en"])
def test_embedded_rows_are_disjoint_in_content_and_the_same_in_every_language(direction: str, language: str) -> None:
    task = task_name(direction)
    rows = load_direction(direction, config(task), language=language, pivot="en")
    parts = {"train": rows.demonstrations, **rows.splits}
    contents = {name: {row["content_id"] for row in part} for name, part in parts.items()}
    assert all(len(part) == 60 for part in rows.splits.values())
    assert not contents["validation"] & contents["test"]
    assert not contents["train"] & (contents["validation"] | contents["test"])
    other = load_direction(direction, config(task), language="es", pivot="en")
    for split in SPLITS:
        assert [row["content_id"] for row in rows.splits[split]] == [row["content_id"] for row in other.splits[split]]
        assert all(row["source"] and row["target"] for row in rows.splits[split])


def test_embedded_sides_are_in_the_languages_of_the_direction() -> None:
    for direction in EMBEDDED_SCORES:
        task = task_name(direction)
        for row in load_direction(direction, config(task), language="th", pivot="en").splits["test"][:3]:
            source, target = sides(direction, language="th", pivot="en")
            assert {source, target} == ({"th"} if direction == "xquad_qa" else {"th", "en"})
            for text, code in ((row["source"], source), (row["target"], target), (row.get("context", ""), target)):
                if not text:
                    continue
                assert any("\u0e00" <= character <= "\u0e7f" for character in text) == (code == "th"), (direction, text)


def test_an_embedded_summary_tells_the_beginning_and_the_end_of_its_story() -> None:
    for text, summary, content in embedded.summaries("en", "en", "test"):
        sentences = text.rstrip(".").split(". ")
        assert len(sentences) == 5
        begin, _, end = summary.rstrip(".").partition(" so ")
        assert sentences[0].endswith(begin), content
        assert sentences[-1].lower() == end


def test_embedded_answers_are_told_in_most_languages() -> None:
    """References set the ceiling of the rate; short English and Spanish ones are often unknown, never foreign."""
    for language, least in {"zh": 1.0, "th": 1.0, "vi": 1.0, "tr": 0.9, "sw": 0.8, "en": 0.7}.items():
        rows = load_direction("answer_language", config("answer_language"), language=language, pivot="es").splits[
            "test"
        ]
        found = [language_of(row["target"]) for row in rows]
        assert found.count(language) / len(found) >= least
        assert len({name for name in found} - {language, "unknown"}) <= 1


@pytest.mark.parametrize("direction", ["translation", "summarization_to_pivot", "answer_language"])
def test_demonstrations_are_answered_prompts_of_other_contents(direction: str) -> None:
    settings = config(task_name(direction), shots=(2,), limit=10)
    shown = cell(direction, settings)
    first = shown.examples[0]
    assert len(first.demonstrations) == 2
    assert len({example.demonstrations for example in shown.examples}) == 1
    rows = load_direction(direction, settings, language="zh", pivot="en").demonstrations
    texts = {row["source"]: row for row in rows}
    for text in first.demonstrations:
        row = next(row for source, row in texts.items() if text.startswith(source))
        assert text.endswith(f" {row['target']}")
        assert text.count(row["source"]) == 1


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def write_flores(
    folder: Path, part: str, *, codes: tuple[str, ...] = ("eng_Latn", "zho_Hans"), number: int = 8
) -> None:
    for code in codes:
        write_lines(folder / f"{code}.{part}", [f"{code} {part} {line}" for line in range(number)])


@pytest.mark.parametrize(
    "place, codes",
    [
        ("flores200_devtest", ("eng_Latn", "zho_Hans")),
        ("flores200_dataset/devtest", ("eng_Latn", "zho_Hans")),
        ("flores101_dataset/devtest", ("eng", "zho_simpl")),
    ],
)
def test_flores_is_read_in_the_layouts_of_its_releases(tmp_path: Path, place: str, codes: tuple[str, ...]) -> None:
    write_flores(tmp_path / place, "devtest", codes=codes)
    settings = config("translation", data_dir=tmp_path)
    rows = load_direction("translation", settings, language="zh", pivot="en").splits
    assert [len(rows[split]) for split in SPLITS] == [4, 4]
    contents = {split: {row["content_id"] for row in rows[split]} for split in SPLITS}
    assert not contents["validation"] & contents["test"]
    write_flores(tmp_path / place.replace("devtest", "dev") if "/" in place else tmp_path / place, "dev", codes=codes)
    rows = load_direction("translation_to_pivot", settings, language="zh", pivot="en").splits
    assert [len(rows[split]) for split in SPLITS] == [8, 8]
    assert rows["validation"][3]["source"] == f"{codes[1]} dev 3"
    assert rows["test"][3]["target"] == f"{codes[0]} devtest 3"


def test_ntrex_contents_are_documents(tmp_path: Path) -> None:
    folder = tmp_path / "ntrex128"
    write_lines(folder / "newstest2019-src.eng.txt", [f"English {line}" for line in range(12)])
    write_lines(folder / "newstest2019-ref.zho-CN.txt", [f"中文 {line}" for line in range(12)])
    settings = config("translation", data_dir=tmp_path, translation_corpus="ntrex")
    by_line = load_direction("translation", settings, language="zh", pivot="en").splits
    assert {len(by_line[split]) for split in SPLITS} == {6}
    write_lines(folder / "DOCUMENT_IDS.tsv", [f"paper.{line // 3}" for line in range(12)])
    rows = load_direction("translation", settings, language="zh", pivot="en").splits
    documents = {split: {row["content_id"] for row in rows[split]} for split in SPLITS}
    assert documents["validation"] | documents["test"] == {f"ntrex:paper.{number}" for number in range(4)}
    assert not documents["validation"] & documents["test"]


def test_lines_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    write_flores(tmp_path / "flores", "devtest")
    path = tmp_path / "flores" / "zho_Hans.devtest"
    path.write_text(path.read_text("utf-8").replace("zho_Hans devtest 2", " "), "utf-8")
    assert (
        load_direction("translation", config("translation", data_dir=tmp_path), language="zh", pivot="en").num_skipped
        == 1
    )


def test_files_of_different_length_are_refused(tmp_path: Path) -> None:
    write_flores(tmp_path / "flores", "devtest")
    write_lines(tmp_path / "flores" / "zho_Hans.devtest", ["一", "二"])
    with pytest.raises(DataError, match="8 and 2 lines"):
        check_evaluation(config("translation", data_dir=tmp_path), languages=("en", "zh"), pivot="en")


def test_convsumx_has_english_texts_alone(tmp_path: Path) -> None:
    folder = tmp_path / "convsumx" / "DialogSumX"
    for part in ("dev", "train"):
        rows = [{"en_dialogue": f"{part} {n}", "en_summary": "s", "zh_summary": f"摘要{n}"} for n in range(4)]
        write_lines(folder / f"dialogsumx.{part}.jsonl", [json.dumps(row) for row in rows])
    settings = config("summarization", data_dir=tmp_path, directions=("summarization",))
    rows = load_direction("summarization", settings, language="zh", pivot="en").splits
    assert (rows["validation"][1]["source"], rows["test"][2]["source"]) == ("dev 1", "train 2")
    assert rows["test"][2]["target"] == "摘要2"
    with pytest.raises(TaskError, match="from 'zh' to 'en'") as caught:
        check_evaluation(config("summarization", data_dir=tmp_path), languages=("en", "zh"), pivot="en")
    assert "evaluation.generation.directions" in caught.value.fix
    write_lines(folder / "dialogsumx.test.jsonl", [json.dumps({"en_dialogue": "test", "zh_summary": "试"})])
    assert load_direction("summarization", settings, language="zh", pivot="en").splits["test"][0]["source"] == "test"


def test_ncls_goes_both_ways(tmp_path: Path) -> None:
    for name, article in (("EN2ZHSUM", "An article."), ("ZH2ENSUM", "一篇文章。")):
        for part in ("valid", "test"):
            row = {"article": article, "summary": f"{name} {part}"}
            write_lines(tmp_path / "ncls" / f"{name}_{part}.jsonl", [json.dumps(row)])
    settings = config("summarization", data_dir=tmp_path, summarization_corpus="ncls")
    check_evaluation(settings, languages=("en", "zh"), pivot="en")
    rows = load_direction("summarization_to_pivot", settings, language="zh", pivot="en").splits
    assert (rows["test"][0]["source"], rows["test"][0]["target"]) == ("一篇文章。", "ZH2ENSUM test")


def write_vicuna(folder: Path, name: str, number: int = 6) -> None:
    rows = [{"question_id": n, "text": f"{name} {n}?", "category": "generic"} for n in range(1, number + 1)]
    write_lines(folder / "vicuna80_12lang" / f"questions_{name}.jsonl", [json.dumps(row) for row in rows])


def test_vicuna_needs_the_questions_of_the_prompt_alone(tmp_path: Path) -> None:
    write_vicuna(tmp_path, "English")
    settings = config("answer_language", data_dir=tmp_path, directions=("answer_language",))
    check_evaluation(settings, languages=("en", "sw", "de"), pivot="en")
    found = cell("answer_language", settings, "sw")
    assert found.target == "sw"
    assert all(example.prompt.endswith("? Answer in Swahili:") for example in found.examples)
    with pytest.raises(TaskError, match="answer_language_to_pivot"):
        check_evaluation(config("answer_language", data_dir=tmp_path), languages=("en", "de"), pivot="en")
    write_vicuna(tmp_path, "Deutsch")
    check_evaluation(config("answer_language", data_dir=tmp_path), languages=("en", "de"), pivot="en")


def test_questions_without_answers_have_no_demonstrations(tmp_path: Path) -> None:
    for name in ("English", "Chinese"):
        write_vicuna(tmp_path, name)
    with pytest.raises(TaskError, match="no answers to show") as caught:
        check_evaluation(config("answer_language", data_dir=tmp_path, shots=(0, 1)), languages=("en", "zh"), pivot="en")
    assert caught.value.allowed == "0 shots"


def test_mt_bench_shows_answers_in_the_other_language(tmp_path: Path) -> None:
    for folder, word in (("mt_bench", "English"), ("mt_bench_de", "Deutsch")):
        questions = [{"question_id": n, "turns": [f"{word} {n}?", "more"]} for n in range(8)]
        answers = [{"question_id": n, "choices": [{"turns": [f"{word}: {n}.", "x"]}]} for n in range(8)]
        place = tmp_path / "mt_bench_multilingual" / folder
        write_lines(place / "question.jsonl", [json.dumps(row) for row in questions])
        write_lines(place / "reference_answer" / "gpt-4.jsonl", [json.dumps(row) for row in answers])
    settings = config("answer_language", data_dir=tmp_path, shots=(1,), answer_corpus="mt_bench")
    example = cell("answer_language", settings, "de").examples[0]
    (shown,) = example.demonstrations
    number = shown.split()[1].rstrip("?")
    assert shown == f"English {number}? Answer in German: Deutsch: {number}."
    back = cell("answer_language_to_pivot", settings, "de").examples[0]
    assert back.prompt.startswith("Deutsch ") and back.demonstrations[0].split("Answer in English: ")[1].startswith(
        "English"
    )


def test_hc3_is_taken_in_a_random_order(tmp_path: Path) -> None:
    rows = [{"question": f"Question {n}?", "source": "eli5" if n < 20 else "law"} for n in range(40)]
    write_lines(tmp_path / "hc3" / "all.jsonl", [json.dumps(row) for row in rows])
    settings = config(
        "answer_language", data_dir=tmp_path, directions=("answer_language",), answer_corpus="hc3", limit=10
    )
    numbers = [int(example.id.split(":")[1]) for example in cell("answer_language", settings).examples]
    assert min(numbers) <= 20 < max(numbers)
    assert numbers != sorted(numbers)


def test_hc3_is_shown_answers_of_bactrian_x_in_the_language_asked_for(tmp_path: Path) -> None:
    for folder, word in (("hc3", "English"), ("hc3_chinese", "\u4e2d\u6587")):
        write_lines(tmp_path / folder / "all.jsonl", [json.dumps({"question": f"{word} {n}?"}) for n in range(8)])
    for code, word in (("en", "Name"), ("zh", "\u8bf4\u51fa")):
        records = [
            {"id": f"r{n}", "instruction": f"{word} {n}.", "input": "" if n else "given", "output": f"{word}: {n}."}
            for n in range(3)
        ]
        records[2]["output"] *= 100  # too long to show
        write_lines(tmp_path / "bactrian-x" / f"{code}.json", [json.dumps(records)])
    settings = config("answer_language", data_dir=tmp_path, shots=(0, 1), answer_corpus="hc3", limit=3)
    bare, shown = generation_cells("answer_language", settings, language="zh", pivot="en", split="test")
    assert [example.demonstrations for example in bare.examples] == [()] * 3
    assert {example.demonstrations for example in shown.examples} == {("Name 1. Answer in Chinese: \u8bf4\u51fa: 1.",)}
    back = cell("answer_language_to_pivot", settings.model_copy(update={"shots": (1,)})).examples[0]
    assert back.demonstrations == ("\u8bf4\u51fa 1. Answer in English: Name: 1.",)
    before = evaluation_fingerprint(settings, languages=("zh",), pivot="en")
    write_lines(tmp_path / "bactrian-x" / "zh.json", [json.dumps([{**records[1], "output": "else"}])])
    assert evaluation_fingerprint(settings, languages=("zh",), pivot="en") != before
    (tmp_path / "bactrian-x" / "zh.json").unlink()
    with pytest.raises(TaskError, match=r"no answers to show as demonstrations[\s\S]*bactrian-x/"):
        check_evaluation(settings, languages=("zh",), pivot="en")


@pytest.mark.parametrize(
    "tasks, languages, fields, message",
    [
        (("translation",), ("en",), {}, "needs a language beside 'en'"),
        (("translation",), ("en", "de"), {}, "no embedded rows in 'de'"),
        (("summarization",), ("en", "zh"), {"shots": (70,)}, "too few rows for 70"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_anything_starts(
    tasks: Any, languages: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        check_evaluation(config(*tasks, **fields), languages=languages, pivot="en")
    assert caught.value.allowed and caught.value.fix


def test_missing_files_name_the_languages_that_have_them(tmp_path: Path) -> None:
    write_flores(tmp_path / "flores", "devtest")
    with pytest.raises(TaskError, match="from 'en' to 'th'") as caught:
        check_evaluation(config("translation", data_dir=tmp_path), languages=("en", "th"), pivot="en")
    assert caught.value.allowed == "languages with files: zh"
    assert "<code>.devtest" in caught.value.fix


@pytest.mark.parametrize(
    "tasks, fields",
    [
        (("translation",), {"directions": ("summarization",)}),
        (("translation", "summarization"), {"directions": ("translation",)}),
        (("translation",), {"directions": ("translation", "translation")}),
        (("translation",), {"directions": ()}),
        (("translation",), {"pivot": "xx"}),
        (("translation",), {"top_p": 0.0}),
        (("translation",), {"max_new_tokens": 0}),
    ],
)
def test_settings_that_say_nothing_are_refused(tasks: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(*tasks, **fields)


def test_another_pivot_translates_between_any_two_languages() -> None:
    settings = config("translation", pivot="zh", limit=2)
    check_evaluation(settings, languages=("en", "zh", "th"), pivot="en")
    example = cell("translation", settings, "th", pivot="zh").examples[0]
    pair = embedded.translation_pairs("zh", "th", "test")[0]
    assert (example.prompt, example.reference) == (f"{pair.source} =", pair.target)
    names = allowed_metrics(settings, languages=("en", "zh", "th"), pivot="en")
    assert {"mean", "pivot_mean", "translation/en", "translation_to_pivot/th"} <= set(names)
    assert "translation/zh" not in names


def test_only_generation_settings_of_generation_tasks_change_the_trial() -> None:
    def identity(*tasks: str, **fields: Any) -> str:
        trial = TrialConfig(evaluation=config(*tasks, **fields))
        return trial_id(trial, {"evaluation": "e"})

    assert identity("xnli") == identity("xnli", max_new_tokens=5)
    assert identity("translation") != identity("translation", max_new_tokens=5)
    assert identity("translation", spbleu_model="a/x.model") == identity("translation", spbleu_model="b/x.model")


def test_the_fingerprint_follows_rows_and_directions(tmp_path: Path) -> None:
    def fingerprint(folder: Path, **fields: Any) -> str:
        settings = config("translation", data_dir=folder, **fields)
        return evaluation_fingerprint(settings, languages=("en", "zh"), pivot="en")

    for name in ("one", "two"):
        write_flores(tmp_path / name / "flores", "devtest")
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "one", directions=("translation",))
    path = tmp_path / "two" / "flores" / "zho_Hans.devtest"
    path.write_text(path.read_text("utf-8").replace("7", "seven"), "utf-8")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")


SETTINGS = EvaluationConfig(
    tasks=("xcopa", *EMBEDDED_TASKS),
    shots=(0, 1),
    demo_seeds=(0, 1),
    limit=5,
    representation=None,
    generation=GenerationConfig(max_new_tokens=6),
)


@pytest.fixture(scope="module")
def evaluated(tokenizer: Any, llama: Any) -> Any:
    return evaluate_tasks(llama, tokenizer, SETTINGS, languages=("en", "zh"), pivot="en", split="test")


def test_every_cell_has_its_metrics_the_main_one_first(evaluated: Any) -> None:
    found: dict[tuple[str, str, int], list[str]] = {}
    for score in evaluated.scores:
        assert 0 <= score.value <= 1 and score.n == 5
        assert bool(score.signature) == (score.metric != "accuracy")
        found.setdefault((score.task, score.language, score.shots), []).append(score.metric)
    expected: dict[tuple[str, str, int], list[str]] = {
        ("xcopa", language, shots): ["accuracy"] for language in ("en", "zh") for shots in (0, 1)
    }
    metrics = {
        "translation": ["bleu", "chrf++"],
        "summarization": ["rouge1", "rouge2", "rougeL"],
        "answer_language": ["target_language_rate", "unknown_language_rate"],
        "xquad_qa": ["f1", "em"],
    }
    for task, names in metrics.items():
        expected |= {(direction, "zh", shots): names for direction in DIRECTIONS[task] for shots in (0, 1)}
    expected |= {("xquad_qa", "en", shots): metrics["xquad_qa"] for shots in (0, 1)}
    assert found == expected


def test_bleu_is_that_of_the_kept_texts_of_all_demonstration_seeds(evaluated: Any) -> None:
    for score in (one for one in evaluated.scores if one.metric == "bleu"):
        own = [p for p in evaluated.predictions if (p.task, p.shots) == (score.task, score.shots)]
        assert len(own) == (5 if score.shots == 0 else 10)
        totals = np.sum([p.totals for p in own], axis=0)[None]
        assert score.value == pytest.approx(bleu_of_totals(totals)[0], abs=1e-12)
        tokenize = "13a" if score.task.endswith("_to_pivot") else "zh"
        whole = BLEU(tokenize=tokenize, effective_order=True)
        expected = whole.corpus_score([p.text for p in own], [[p.reference for p in own]]).score / 100
        assert score.value == pytest.approx(expected, abs=1e-12)
        assert score.signature == str(whole.get_signature())


def test_other_metrics_are_the_means_of_their_examples(evaluated: Any) -> None:
    for score in (one for one in evaluated.scores if one.metric in ("rouge1", "target_language_rate")):
        own = [p for p in evaluated.predictions if (p.task, p.shots) == (score.task, score.shots)]
        assert score.value == pytest.approx(np.mean([p.value for p in own]), abs=1e-12)
        assert all(p.metric == score.metric and p.totals == () for p in own)


def test_every_allowed_metric_can_be_computed_and_mean_nests_tasks(evaluated: Any) -> None:
    for name in allowed_metrics(SETTINGS, languages=("en", "zh"), pivot="en"):
        assert 0 <= objective_value(evaluated.scores, name, pivot="en", split="test") <= 1
    names = ["xcopa", *EMBEDDED_SCORES]
    parts = [objective_value(evaluated.scores, name, pivot="en", split="test") for name in names]
    assert objective_value(evaluated.scores, "mean", pivot="en", split="test") == pytest.approx(np.mean(parts))


def test_a_second_evaluation_is_equal_and_its_predictions_come_back(
    evaluated: Any, tokenizer: Any, llama: Any, tmp_path: Path
) -> None:
    again = evaluate_tasks(llama, tokenizer, SETTINGS, languages=("en", "zh"), pivot="en", split="test")
    assert again == evaluated
    path = tmp_path / "test.parquet"
    write_predictions(evaluated.predictions, path)
    assert read_predictions(path) == evaluated.predictions
    kinds = {p.metric: (p.correct is None, p.value is None) for p in evaluated.predictions}
    assert kinds["accuracy"] == (False, True)
    assert kinds["bleu"] == kinds["rouge1"] == kinds["target_language_rate"] == (True, False)


def test_predictions_of_the_first_format_are_read_as_choices(tmp_path: Path) -> None:
    rows = [
        Prediction("xnli", "zh", 0, 0, f"dev:{n}", f"dev:{n}", 1, n % 2, n % 2 == 1, (-1.0, -2.0)) for n in range(3)
    ]
    path = tmp_path / "test.parquet"
    write_predictions(rows, path)
    table = pq.read_table(path)
    assert table.schema.metadata[b"afp_ray.format"] == b"2"
    first = table.select(table.column_names[:10]).replace_schema_metadata({})
    assert first.column_names[-1] == "log_likelihoods"
    pq.write_table(first, path)
    assert read_predictions(path) == rows


def test_unfinished_and_cut_texts_are_told_in_words(tokenizer: Any, make_model: Any) -> None:
    settings = EvaluationConfig(
        tasks=("summarization",),
        shots=(3,),
        limit=4,
        representation=None,
        generation=GenerationConfig(max_new_tokens=3, directions=("summarization",)),
    )
    model = make_model("llama", positions=200)
    result = evaluate_tasks(model, tokenizer, settings, languages=("en", "zh"), pivot="en", split="test")
    told = " ".join(result.warnings)
    assert "summarization/zh at 3 shots: 4 of 4 prompts were too long for the model and lost demonstrations" in told
    assert "not finished after 3 tokens" in told


def test_steps_that_cannot_be_captured_are_told_once(tokenizer: Any, llama: Any) -> None:
    languages, captures = ("en", "zh"), ScoringHost(captures_decoding=True)
    settings = SETTINGS.model_copy(update={"tasks": ("translation",), "demo_seeds": (0,)})
    result = evaluate_tasks(llama, tokenizer, settings, languages=languages, pivot="en", split="test", host=captures)
    asked = [warning for warning in result.warnings if "runtime.decoding" in warning]
    assert len(asked) == 1 and "graph needs a CUDA device; on cpu" in asked[0]
    plain = evaluate_tasks(llama, tokenizer, settings, languages=languages, pivot="en", split="test")
    assert result.predictions == plain.predictions
    assert not [warning for warning in plain.warnings if "runtime.decoding" in warning]


@pytest.mark.shared_data
def test_the_original_files_pass_their_check(shared_data: Path) -> None:
    def check(*tasks: str, languages: tuple[str, ...], **fields: Any) -> None:
        check_evaluation(config(*tasks, data_dir=shared_data, **fields), languages=languages, pivot="en")

    check("translation", languages=("en", "zh", "th", "ar", "sw"), shots=(0, 10))
    check("translation", languages=("en", "zh", "th", "ar", "sw"), shots=(0, 5), translation_corpus="ntrex")
    check("summarization", languages=("en", "zh", "fr"), shots=(1,), directions=("summarization",))
    check("answer_language", languages=("en", "zh", "de", "hi", "ko"))
    check("answer_language", languages=("en", "de", "th"), shots=(1,), answer_corpus="mt_bench")
    settings = config("translation", data_dir=shared_data)
    rows = load_direction("translation", settings, language="zh", pivot="en").splits
    assert [len(rows[split]) for split in SPLITS] == [506, 506]
    settings = config("summarization", data_dir=shared_data, directions=("summarization",))
    rows = load_direction("summarization", settings, language="fr", pivot="en").splits
    assert [len(rows[split]) for split in SPLITS] == [100, 400]


@pytest.fixture
def shared_data() -> Path:
    import os

    folder = Path(os.environ.get("AFP_DATA_DIR") or Path(__file__).parents[2].parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data under {folder}; set AFP_DATA_DIR")
    return folder


def test_user_errors_name_the_cell(tokenizer: Any, make_model: Any) -> None:
    settings = EvaluationConfig(
        tasks=("translation",), limit=2, representation=None, generation=GenerationConfig(max_new_tokens=64)
    )
    with pytest.raises(UserError) as caught:
        evaluate_tasks(
            make_model("llama", positions=32), tokenizer, settings, languages=("en", "zh"), pivot="en", split="test"
        )
    assert caught.value.where.startswith("translation/zh at 0 shots")
