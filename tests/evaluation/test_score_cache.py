"""Kept answers: found again by content alone, never shared by two checkpoints, made again when a file is damaged."""

import io
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from trial_cases import run_on_cpu

from afp_ray.config import EvaluationConfig
from afp_ray.errors import ConfigError, ModelError
from afp_ray.evaluation import tasks
from afp_ray.evaluation.cell_scoring import CellScoring, ScoringHost
from afp_ray.evaluation.run import Evaluation, evaluate_tasks
from afp_ray.evaluation.score_cache import ScoreCache, is_caching_wanted
from afp_ray.evaluation.task import Task
from afp_ray.evaluation.tasks import TASKS
from afp_ray.evaluation.weights_digest import model_fingerprint, tokenizer_digest

SETTINGS = EvaluationConfig(tasks=("xcopa", "xnli"), shots=(0, 1), limit=4)
TEXTS = EvaluationConfig.model_validate(
    {"tasks": ["translation"], "limit": 3, "generation": {"max_new_tokens": 4, "directions": ["translation"]}}
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path))
    return tmp_path / "scores"


def evaluate(
    model: Any, tokenizer: Any, settings: EvaluationConfig = SETTINGS, **options: Any
) -> tuple[Evaluation, ScoreCache]:
    cache = ScoreCache(model, tokenizer)
    arguments = {"languages": ("en", "zh"), "pivot": "en", "split": "validation", **options}
    return evaluate_tasks(model, tokenizer, settings, host=ScoringHost(cache=cache), **arguments), cache


def num_forwards(model: Any, act: Callable[[], object]) -> int:
    """How often the model runs while `act` does."""
    calls: list[int] = []
    handle = model.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        act()
    finally:
        handle.remove()
    return len(calls)


@pytest.mark.parametrize("settings", [SETTINGS, TEXTS], ids=["choices", "texts"])
def test_what_was_asked_before_is_answered_alike_without_the_model(
    settings: EvaluationConfig, tokenizer: Any, make_model: Any, folder: Path
) -> None:
    model = make_model("llama")
    plain = evaluate_tasks(model, tokenizer, settings, languages=("en", "zh"), pivot="en", split="validation")
    first, cache = evaluate(model, tokenizer, settings)
    assert (cache.num_found, cache.num_made) == (0, len(list(folder.glob("*.parquet"))))
    copy = make_model("llama")
    found: list[Evaluation] = []
    assert num_forwards(copy, lambda: found.append(evaluate(copy, tokenizer, settings)[0])) == 0
    assert plain == first == found[0]
    assert not list(folder.glob("*.partial"))


def test_what_was_cut_is_told_again(tokenizer: Any, make_model: Any, folder: Path) -> None:
    settings = EvaluationConfig(tasks=("xnli",), shots=(4,), limit=3)
    model = make_model("llama", positions=96)
    first, _ = evaluate(model, tokenizer, settings)
    second, cache = evaluate(model, tokenizer, settings)
    assert cache.num_made == 0
    assert first.warnings == second.warnings != []
    unfinished, _ = evaluate(model, tokenizer, TEXTS)
    assert "were not finished" in unfinished.warnings[0]
    assert evaluate(model, tokenizer, TEXTS)[0].warnings == unfinished.warnings


def test_two_checkpoints_of_one_name_and_folder_never_share_a_score(
    tokenizer: Any, make_model: Any, folder: Path, tmp_path: Path
) -> None:
    """The known fault of caches that are keyed by the name of a model."""
    from transformers import AutoModelForCausalLM

    place, results = tmp_path / "model", []
    for factor in (1.0, -1.0):
        model = make_model("llama")
        with torch.no_grad():
            model.lm_head.weight.mul_(factor)
        shutil.rmtree(place, ignore_errors=True)
        model.save_pretrained(place)
        loaded = AutoModelForCausalLM.from_pretrained(place)
        results.append(evaluate(loaded, tokenizer)[0].predictions)
    assert all(left.log_likelihoods != right.log_likelihoods for left, right in zip(*results, strict=True))


def flip_one_weight(model: Any) -> None:
    with torch.no_grad():
        weight = model.model.layers[1].mlp.down_proj.weight.view(torch.int32)
        weight[0, 0] ^= 1  # the last bit of one number


def widen_epsilon(model: Any) -> None:
    model.config.rms_norm_eps = 1e-3
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-3


@pytest.mark.parametrize(
    "change",
    [
        flip_one_weight,
        widen_epsilon,
        lambda model: model.to(torch.bfloat16),
        lambda model: model.set_attn_implementation("eager"),
        lambda model: setattr(model.config, "rope_theta", 77.0),
    ],
    ids=["weight", "epsilon", "precision", "attention", "config"],
)
def test_another_model_has_another_fingerprint(change: Callable[[Any], None], make_model: Any) -> None:
    model = make_model("llama")
    before = model_fingerprint(model)
    change(model)
    assert model_fingerprint(model) != before


def test_names_folders_and_modes_do_not_enter_a_fingerprint(make_model: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = make_model("llama")
    before = model_fingerprint(model)
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name)
        assert model_fingerprint(AutoModelForCausalLM.from_pretrained(tmp_path / name)) == before
    model.train().requires_grad_(False)
    assert model_fingerprint(model) == before


def test_a_tokenizer_that_begins_texts_otherwise_has_another_digest(tokenizer: Any) -> None:
    import copy

    other = copy.deepcopy(tokenizer)
    other.bos_token = "<pad>"
    assert tokenizer_digest(other) != tokenizer_digest(tokenizer)


@pytest.mark.parametrize(
    "fields, made",
    [
        ({}, 0),
        ({"limit": 3}, 4),
        ({"prompt_language": "pivot"}, 2),  # the cells of the pivot itself stay
        ({"demo_seeds": (1,)}, 2),  # those without demonstrations stay
        ({"shots": (0, 2)}, 2),
    ],
    ids=["same", "rows", "words", "demonstrations", "shots"],
)
def test_only_what_is_asked_otherwise_is_scored_again(
    fields: dict[str, Any], made: int, tokenizer: Any, llama: Any, folder: Path
) -> None:
    settings = EvaluationConfig(tasks=("xcopa",), shots=(0, 1), limit=4)
    evaluate(llama, tokenizer, settings)
    _, cache = evaluate(llama, tokenizer, settings.model_copy(update=fields))
    assert (cache.num_made, cache.num_made + cache.num_found) == (made, 4)


@pytest.mark.parametrize(
    "fields, is_new",
    [
        ({"max_new_tokens": 5}, True),
        ({"temperature": 0.5}, True),
        ({"temperature": 0.5, "seed": 1}, True),
        ({"temperature": 0.5, "top_p": 0.9}, True),
        ({"seed": 1}, False),  # nothing is drawn
    ],
)
def test_another_decoding_is_written_again(
    fields: dict[str, Any], is_new: bool, tokenizer: Any, llama: Any, folder: Path
) -> None:
    drawn = {"temperature": 0.5} if "temperature" in fields and len(fields) > 1 else {}
    for held in ({}, drawn):
        evaluate(llama, tokenizer, TEXTS.model_copy(update={"generation": TEXTS.generation.model_copy(update=held)}))
    _, cache = evaluate(
        llama, tokenizer, TEXTS.model_copy(update={"generation": TEXTS.generation.model_copy(update=fields)})
    )
    assert (cache.num_made == 1) is is_new


def ask(cache: ScoreCache, prompts: list[Any], answer: float = -1.0) -> Any:
    scoring = CellScoring(None, None, SETTINGS, "en", "validation", [], ScoringHost(cache=cache))
    return scoring.answers({"kind": "test"}, prompts, lambda: ([(answer,)] * len(prompts), {"num_truncated": 0}))[0]


def test_one_character_of_a_prompt_and_the_version_of_a_task_make_another_key(
    llama: Any, tokenizer: Any, folder: Path
) -> None:
    cache = ScoreCache(llama, tokenizer)
    asked: list[tuple[tuple[str, int], list[Any]]] = [
        (("xnli", 1), [["a b", "c"]]),
        (("xnli", 2), [["a b", "c"]]),
        (("xcopa", 1), [["a b", "c"]]),
        (("xnli", 1), [["a b", "d"]]),
        (("xnli", 1), [["a ", "bc"]]),  # the same text, joined elsewhere
        (("xnli", 1), [["a b", "c"], ["a b", "c"]]),
    ]
    for number, (task, prompts) in enumerate(asked):
        cache.of_task(*task)
        assert ask(cache, prompts, -float(number))[0] == (-float(number),)
    for number, (task, prompts) in enumerate(asked):
        cache.of_task(*task)
        assert ask(cache, prompts, 1.0)[0] == (-float(number),)


def test_a_version_of_a_task_is_read_from_the_task(
    llama: Any, tokenizer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    settings = EvaluationConfig(tasks=("xcopa",), limit=2)
    evaluate(llama, tokenizer, settings)
    newer: Task = dataclasses.replace(TASKS["xcopa"], version=TASKS["xcopa"].version + 1)
    monkeypatch.setitem(tasks._OURS, "xcopa", newer)
    assert evaluate(llama, tokenizer, settings)[1].num_found == 0


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def change_one_answer(content: bytes) -> bytes:
    """A file that is well formed, but for one number that is another one."""
    table = pq.read_table(io.BytesIO(content))
    answers = table["answer"].to_pylist()
    answers[0][0] += 1.0
    sink = io.BytesIO()
    pq.write_table(pa.table({"answer": answers}, schema=table.schema), sink)
    return sink.getvalue()


@pytest.mark.parametrize("damage", [cut_short, change_one_answer, lambda _: b""], ids=["cut", "changed", "empty"])
def test_a_damaged_entry_is_made_again(
    damage: Callable[[bytes], bytes], llama: Any, tokenizer: Any, folder: Path
) -> None:
    first = evaluate(llama, tokenizer)[0]
    files = sorted(folder.glob("*.parquet"))
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    again, cache = evaluate(llama, tokenizer)
    assert again == first
    assert cache.num_made == len(files)
    assert evaluate(llama, tokenizer)[1].num_found == len(files)


def test_an_entry_that_answers_something_else_is_not_believed(llama: Any, tokenizer: Any, folder: Path) -> None:
    cache = ScoreCache(llama, tokenizer)
    ask(cache, ["one"], -1.0)
    ask(cache, ["two"], -2.0)
    one, two = sorted(folder.glob("*.parquet"))
    shutil.copy(one, two)  # a file under a name that is not its own
    assert ask(cache, ["one"], -1.0) == [(-1.0,)]
    assert ask(cache, ["two"], -2.0) == [(-2.0,)]
    assert cache.num_made == 3


def test_an_error_keeps_nothing(tokenizer: Any, make_model: Any, folder: Path) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError):
        evaluate(model, tokenizer)
    assert not folder.exists() or not list(folder.iterdir())


def test_those_who_ask_at_the_same_time_get_the_same(llama: Any, tokenizer: Any, folder: Path) -> None:
    """Nobody waits, and no reader sees half of a file."""
    prompts, wrong = [[str(number), "x" * number] for number in range(200)], []

    def work(own: ScoreCache) -> None:
        for _ in range(20):
            if ask(own, prompts) != [(-1.0,)] * 200:
                wrong.append(1)
            for file in folder.glob("*.parquet"):
                file.unlink(missing_ok=True)

    caches = [ScoreCache(llama, tokenizer) for _ in range(4)]
    for cache in caches:
        ask(cache, ["warm"])
    threads = [threading.Thread(target=work, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not list(folder.glob("*.partial"))


def test_what_was_used_longest_ago_goes_first(
    llama: Any, tokenizer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(ScoreCache(llama, tokenizer), ["old"])
    monkeypatch.setenv("AFP_CACHE_GB", "0")
    cache = ScoreCache(llama, tokenizer)
    ask(cache, ["new"])
    assert len(list(folder.glob("*.parquet"))) == 1
    ask(cache, ["new"])
    assert cache.num_found == 1


def test_a_folder_that_cannot_be_written_is_told_once_and_changes_no_score(
    llama: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="scores cannot be kept") as told:
        found = evaluate(llama, tokenizer)[0]
    assert len(told) == 1
    assert found == evaluate_tasks(llama, tokenizer, SETTINGS, languages=("en", "zh"), pivot="en", split="validation")


@pytest.mark.parametrize("value, is_wanted", [("", True), ("1", True), (" 0 ", False)])
def test_the_cache_can_be_turned_off(value: str, is_wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_CACHE_SCORES", value)
    assert is_caching_wanted() is is_wanted


def test_another_word_for_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_CACHE_SCORES", "no")
    with pytest.raises(ConfigError) as caught:
        is_caching_wanted()
    assert "'no'" in caught.value.problem
    assert caught.value.fix


def test_a_trial_that_is_run_again_takes_kept_scores_unless_it_is_told_not_to(folder: Path, tmp_path: Path) -> None:
    from afp_ray.config import TrialConfig, nest
    from afp_ray.methods import pins

    fields = {"method": "base", "evaluation.tasks": ["xcopa"], "evaluation.limit": 4, "evaluation.representation": None}
    config = TrialConfig.model_validate(nest({**fields, "data.languages": ["zh"], **pins("base")}))

    def go(name: str, **host: Any) -> Any:
        return run_on_cpu(config, tmp_path / name, **host)

    assert go("never", caches_scores=False).scores
    assert not folder.exists()
    first = go("first")
    times = {file: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}
    assert len(times) == 2
    assert go("second").scores == first.scores
    assert set(folder.glob("*.parquet")) == set(times)
    assert json.loads((tmp_path / "second" / "result.json").read_text())["scores"]
