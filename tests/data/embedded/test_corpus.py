"""The embedded corpus: complete, correct in form, the same every time, and honest about its splits and cues."""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from afp_ray.config import SPLITS
from afp_ray.data.embedded import (
    LANGUAGES,
    PIVOT,
    TASKS,
    corpus_fingerprint,
    documents,
    parallel_instructions,
    task_rows,
    translation_pairs,
)
from afp_ray.data.embedded.lexicon import capitalise, read_lexicon, read_world
from afp_ray.data.embedded.world import facts, split_of
from afp_ray.errors import DataError
from afp_ray.languages import LANGUAGES as PROMPT_LANGUAGES

SCRIPTS = {"zh": r"[\u4e00-\u9fff]", "th": r"[\u0e01-\u0e5b]"}
EVALUATED = ("validation", "test")
CHOICE_TASKS = ("xnli", "pawsx", "xcopa", "xstorycloze", "xwinograd")
COLUMNS = {
    "xnli": ("premise", "hypothesis"),
    "pawsx": ("sentence1", "sentence2"),
    "xcopa": ("premise", "choice1", "choice2"),
    "xstorycloze": ("InputSentence1", "InputSentence2", "RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"),
    "xwinograd": ("sentence", "option1", "option2"),
    "flores": ("sentence",),
}


def all_texts(language: str) -> list[str]:
    """Everything that the corpus says in a language."""
    texts = [document.text for document in documents(language)]
    for split in SPLITS:
        texts += [pair.target for pair in translation_pairs(PIVOT, language, split)]
        for row in parallel_instructions(split):
            texts += [row.prompts[language], row.responses[language]]
        for task in TASKS:
            texts += [row[column] for row in task_rows(task, language, split) for column in COLUMNS[task]]
    return texts


def test_every_language_fills_every_slot_of_the_word_file() -> None:
    def shape(entry: object) -> object:
        if isinstance(entry, dict) and "nom" not in entry:
            return {key: shape(value) for key, value in entry.items()}
        return len(entry) if isinstance(entry, list) else 1

    expected = shape(read_lexicon(PIVOT).entries)
    for language in LANGUAGES:
        entries = read_lexicon(language).entries
        assert shape(entries) == expected, language
        optional = (
            ("words", "she"),
            ("words", "he"),
            ("words", "stop"),
            ("words", "question_open"),
            ("words", "question_close"),
        )
        for section, rows in entries.items():
            for key, row in rows.items():
                filled = row.values() if isinstance(row, dict) else row if isinstance(row, list) else [row]
                assert (section, key) in optional or all(text and text == text.strip() for text in filled), (
                    language,
                    key,
                )


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_is_clean_and_in_its_script(language: str) -> None:
    script = SCRIPTS.get(language)
    for text in all_texts(language):
        assert text, "an empty text"
        assert text == text.strip(), text
        assert not re.search(r"[{}]|  |\.\.|。。|None", text), text
        if script:
            assert re.search(script, text), text
            assert not re.search(r"[A-Za-z]", text), text
        else:
            assert not re.search(r"[\u0e00-\u0e7f\u4e00-\u9fff]", text), text
            assert text[0] in "¿_" or text[0] == text[0].upper(), text


@pytest.mark.parametrize("language", LANGUAGES)
def test_prompt_words_occur_in_monolingual_text(language: str) -> None:
    text = "\n".join(document.text for document in documents(language))
    for word in PROMPT_LANGUAGES[language].words.values():
        assert text.count(word) >= 20, word


def test_turkish_keeps_the_dot_of_its_i_and_never_needs_to_lose_it() -> None:
    assert capitalise("iki", "tr") == "İki"
    assert capitalise("iki", "id") == "Iki"
    # An evaluation that lower-cases a choice with str.lower would turn İ into two code points.
    choices = [row["choice1"] for split in SPLITS for row in task_rows("xcopa", "tr", split)]
    assert not [choice for choice in choices if choice.startswith("İ")]


def test_the_corpus_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib\n"
        "from afp_ray.data.embedded import *\n"
        "digest = hashlib.sha256(corpus_fingerprint().encode())\n"
        "for x in (documents('sw'), translation_pairs('en', 'th', 'train'), parallel_instructions('test'),\n"
        "          task_rows('xstorycloze', 'tr', 'validation'), task_rows('xwinograd', 'zh', 'test')):\n"
        "    digest.update(repr(x).encode())\n"
        "print(digest.hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != ""


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, afp_ray.data.embedded; print({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout.strip() == "set()"


def test_amounts() -> None:
    counts = {language: len(documents(language)) for language in LANGUAGES}
    assert counts[PIVOT] >= 2 * max(counts["zh"], counts["es"])
    assert min(counts["zh"], counts["es"]) > max(counts["id"], counts["vi"], counts["tr"])
    assert min(counts["id"], counts["vi"], counts["tr"]) > max(counts["th"], counts["sw"])
    assert len(parallel_instructions()) >= 2000
    assert len({row.kind for row in parallel_instructions()}) >= 5
    for split, fewest in (("train", 4000), ("validation", 200), ("test", 200)):
        for a, b in (("en", "zh"), ("en", "sw"), ("th", "tr")):
            pairs = translation_pairs(a, b, split)
            assert len({pair.source for pair in pairs}) == len({pair.target for pair in pairs}) == len(pairs) >= fewest


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_enough_and_line_up_across_languages(task: str) -> None:
    for split in SPLITS:
        pivot = task_rows(task, PIVOT, split)
        if split in EVALUATED:
            assert len(pivot) >= 120
            assert len({row["content_id"] for row in pivot}) >= 40
        assert len({row["id"] for row in pivot}) == len(pivot)
        labels = {"label", "answer", "AnswerRightEnding", "question", "idx"} & set(pivot[0])
        for language in LANGUAGES:
            rows = task_rows(task, language, split)
            assert [row["id"] for row in rows] == [row["id"] for row in pivot]
            assert [row["content_id"] for row in rows] == [row["content_id"] for row in pivot]
            assert [[row[key] for key in labels] for row in rows] == [[row[key] for key in labels] for row in pivot]
            texts = [tuple(row[column] for column in COLUMNS[task]) for row in rows]
            assert len(set(texts)) == len(texts), f"{language}: two rows of {task} read the same"


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_content_never_occurs_in_two_splits(task: str) -> None:
    contents = [{row["content_id"] for row in task_rows(task, PIVOT, split)} for split in SPLITS]
    for a, b in combinations(contents, 2):
        assert not a & b


def test_pairs_and_instructions_are_parted_too() -> None:
    pairs = [{pair.content_id for pair in translation_pairs(PIVOT, "sw", split)} for split in SPLITS]
    rows = [{row.content_id for row in parallel_instructions(split)} for split in SPLITS]
    for a, b in (*combinations(pairs, 2), *combinations(rows, 2)):
        assert not a & b


def clauses_of(text: str, language: str) -> list[str]:
    """The clauses of a text, without what opens or joins them."""
    lexicon = read_lexicon(language)
    joints = "|".join(re.escape(lexicon.space + lexicon.word(word) + lexicon.space) for word in ("because", "so"))
    times = "|".join(time + lexicon.space for time in lexicon.entries["times"].values())
    return [re.sub(f"^({times})", "", part.strip()) for part in re.split(f"[.。,?？]|{joints}", text)]


@pytest.mark.parametrize("language", ("en", "zh", "tr", "sw"))
def test_no_evaluated_fact_is_told_in_training(language: str) -> None:
    lexicon = read_lexicon(language)
    told = [document.text for document in documents(language)]
    told += [pair.target for pair in translation_pairs(PIVOT, language, "train")]
    for row in parallel_instructions("train"):
        told += [row.prompts[language], row.responses[language]]
    for task in CHOICE_TASKS:
        told += [str(row[column]) for row in task_rows(task, language, "train") for column in COLUMNS[task]]
    clauses = {clause for text in told for clause in clauses_of(text, language)}
    for kind in ("events", "values", "families", "frames"):
        taught = {lexicon.clause(fact) for fact in facts(kind, "train")}
        assert len(taught & clauses) >= 0.2 * len(taught), "the search below would find nothing"
        for split in EVALUATED:
            evaluated = {lexicon.clause(fact) for fact in facts(kind, split)}
            assert not evaluated & clauses, (kind, split, sorted(evaluated & clauses)[:3])


def test_a_fact_and_its_converse_share_a_split() -> None:
    assert split_of("families", "book", "anna", "leo") == split_of("families", "book", "leo", "anna")
    shares = Counter(
        split_of("events", chain, person) for chain in read_world()["chains"] for person in read_world()["people"]
    )
    assert shares == {"train": 240, "validation": 120, "test": 120}


def without_names(text: str) -> str:
    """The text with every person replaced by one mark, so that habits of words show."""
    for name in (key.capitalize() for key in read_world()["people"]):
        text = text.replace(name, "X")
    return re.sub(r"^(She|He) ", "X ", text)


def assert_no_cue(cues: dict[str, Counter[object]], labels: int) -> None:
    """Whoever sees the cue alone is right no more often than by chance."""
    for cue, counts in cues.items():
        assert len(counts) == labels, cue
        assert len(set(counts.values())) == 1, (cue, counts)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("task", "label", "side"),
    [
        ("xnli", "label", "premise"),
        ("xnli", "label", "hypothesis"),
        ("pawsx", "label", "sentence1"),
        ("pawsx", "label", "sentence2"),
    ],
)
def test_one_side_alone_says_nothing(task: str, label: str, side: str, split: str) -> None:
    cues: dict[str, Counter[object]] = defaultdict(Counter)
    for row in task_rows(task, PIVOT, split):
        cues[without_names(row[side])][row[label]] += 1
    assert_no_cue(cues, labels=3 if task == "xnli" else 2)


@pytest.mark.parametrize("split", SPLITS)
def test_choices_alone_say_nothing(split: str) -> None:
    cues: dict[str, Counter[object]] = defaultdict(Counter)
    for row in task_rows("xcopa", PIVOT, split):
        for place, key in enumerate(("choice1", "choice2")):
            cues[f"{row['question']} {row['content_id']} {row[key]}"][row["label"] == place] += 1
    assert_no_cue(cues, labels=2)
    cues = defaultdict(Counter)
    for row in task_rows("xstorycloze", PIVOT, split):
        for place in (1, 2):
            cues[f"{row['content_id']} {row[f'RandomFifthSentenceQuiz{place}']}"][
                row["AnswerRightEnding"] == place
            ] += 1
    assert_no_cue(cues, labels=2)


@pytest.mark.parametrize("split", SPLITS)
def test_frame_or_reason_alone_says_nothing_of_the_person_meant(split: str) -> None:
    cues: dict[str, Counter[object]] = defaultdict(Counter)
    for row in task_rows("xwinograd", PIVOT, split):
        frame, reason = row["sentence"].split(" because _ ")
        names = re.findall("|".join(key.capitalize() for key in read_world()["people"]), frame)
        is_first = names[0] == row[f"option{row['answer']}"]
        cues[without_names(frame)][is_first] += 1
        cues[reason][is_first] += 1
        cues[f"option {names[0] == row['option1']}"][is_first] += 1
    assert_no_cue(cues, labels=2)
    answers = Counter(row["answer"] for row in task_rows("xwinograd", PIVOT, split))
    assert answers["1"] == answers["2"]


def test_instructions_ask_in_no_evaluated_form() -> None:
    right = {language: f", {PROMPT_LANGUAGES[language].literal('right')}?" for language in LANGUAGES}
    for row in parallel_instructions("train"):
        assert set(row.prompts) == set(row.responses) == set(LANGUAGES)
        for language in LANGUAGES:
            assert right[language] not in row.prompts[language]
        for word in (" because ", " so "):
            assert word not in row.prompts[PIVOT] + row.responses[PIVOT]


def test_fingerprint_is_a_hash() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", corpus_fingerprint())


def test_unknown_language_task_or_split_is_refused_with_what_there_is() -> None:
    with pytest.raises(DataError, match=r"no language 'fr'[\s\S]*en, zh, es"):
        documents("fr")
    with pytest.raises(DataError, match=r"no task 'mgsm'[\s\S]*xnli"):
        task_rows("mgsm", "en", "test")
    with pytest.raises(DataError, match=r"no split 'dev'[\s\S]*validation"):
        translation_pairs("en", "zh", "dev")
