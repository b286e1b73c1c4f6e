"""Study and trial files: every mistake is refused at its line and column, and nothing is guessed."""

import codecs
import re
import time
from pathlib import Path

import pytest

from afp_ray.config import StudyConfig, TrialConfig
from afp_ray.config.load import load_study, load_trial
from afp_ray.errors import ConfigError
from afp_ray.methods import METHODS

GOOD = """\
name: demo
objective: {metric: mean, split: validation, direction: maximize}
fixed:
  data.languages: [zh, sw]
  training:
    max_steps: 20
    learning_rate: 1.0e-4
compare: {method: [base, mcl, afp]}
seeds: [0, 1]
tune:
  loss.temperature: {low: 0.01, high: 0.5, log: true}
  loss:
    layer: {low: 0, high: 2, int: true}
  data.num_pairs: {choices: [100, 400]}
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(folder: Path, text: str | bytes, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_study(write(folder, text), overrides)
    return caught.value


def test_dotted_and_nested_names_give_the_same_study(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD))
    assert study.fixed == {"data.languages": ["zh", "sw"], "training.max_steps": 20, "training.learning_rate": 1e-4}
    assert list(study.tune) == ["loss.temperature", "loss.layer", "data.num_pairs"]
    assert study.compare == {"method": ("base", "mcl", "afp")}
    nested = GOOD.replace("  data.languages: [zh, sw]", "  data: {languages: [zh, sw]}")
    assert load_study(write(tmp_path, nested)) == study


def test_a_study_survives_its_own_json(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD))
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study


HEAD = "name: demo\n"
MISTAKES = [
    # what the text is, the text, line:column, words of the message
    ("tab", "name: demo\nfixed:\n\tseed: 1\n", "3:1", "tab"),
    ("duplicate key", "name: demo\nseeds: [0]\nname: other\n", "3:1", "stands twice"),
    ("duplicate nested", "name: demo\nfixed:\n  training.max_steps: 1\n  training.max_steps: 2\n", "4:3", "twice"),
    ("dotted and nested", HEAD + "fixed:\n  training.max_steps: 1\n  training: {max_steps: 2}\n", "4:14", "twice"),
    ("several documents", "name: demo\n---\nname: other\n", "2:1", "second document"),
    ("python tag", "name: !!python/object/apply:os.system ['true']\n", "1:7", "tag"),
    ("explicit tag", "name: !!str demo\n", "1:7", "tag"),
    ("merge key", "name: demo\nfixed: &a {}\nbudget:\n  <<: *a\n", "4:3", "merge key"),
    ("recursive alias", "name: demo\nfixed: &a\n  data: *a\n", "2:8", "contains itself"),
    ("deep nesting", "name: " + "[" * 40 + "]" * 40 + "\n", "1:38", "levels"),
    ("nan", HEAD + "budget: {gpu_hours: .nan}\n", "2:21", "not a finite number"),
    ("inf", HEAD + "budget: {gpu_hours: .inf}\n", "2:21", "not a finite number"),
    ("overflow", HEAD + "budget: {gpu_hours: 1.0e+999}\n", "2:21", "not a finite number"),
    ("big integer", HEAD + "seeds: [9223372036854775808]\n", "2:9", "64 bits"),
    ("octal", HEAD + "seeds: [010]\n", "2:9", "octal"),
    ("minutes", HEAD + "budget:\n  wall_s: 1:30\n", "3:11", "is text, a number is expected"),
    (
        "exponent for count",
        HEAD + "fixed: {training.max_steps: 2e2}\n",
        "2:29",
        "is a fraction, a whole number is expected",
    ),
    ("exponent for text", HEAD + "fixed: {model.revision: 12e3}\n", "2:25", "is a fraction, text is expected"),
    ("exponent too large", HEAD + "fixed: {model.revision: 12e4567}\n", "2:25", "not a finite number"),
    ("norway key", HEAD + "fixed:\n  no: 1\n", "3:3", "unknown field 'no'"),
    ("norway method", HEAD + "compare: {method: [base, on]}\n", "2:26", '"on" is not known'),
    (
        "yes for true",
        HEAD + "tune:\n  loss.temperature: {low: 0.1, high: 1, log: yes}\n",
        "3:46",
        "true or false is expected",
    ),
    ("true for text", HEAD + "fixed: {data.pivot: true}\n", "2:21", "read by YAML as true"),
    ("unknown top", HEAD + "seds: [0]\n", "2:1", "unknown field 'seds'"),
    ("unknown nested", HEAD + "budget:\n  trails: 3\n", "3:3", "unknown field 'budget.trails'"),
    ("unknown fixed", HEAD + "fixed:\n  training.max_stpes: 3\n", "3:3", "unknown field 'training.max_stpes'"),
    ("unknown fixed nested", HEAD + "fixed:\n  training:\n    max_stpes: 3\n", "4:5", "training.max_stpes"),
    ("unknown compare", HEAD + "compare:\n  loss.poling: [last]\n", "3:3", "unknown field 'loss.poling'"),
    ("unknown tune", HEAD + "tune:\n  loss.temprature: {low: 1.0, high: 2.0}\n", "3:3", "loss.temprature"),
    ("missing name", "seeds: [0]\n", "1:1", "name is missing"),
    ("text for number", HEAD + 'fixed:\n  training.max_steps: "200"\n', "3:23", "a whole number is expected"),
    ("fraction for count", HEAD + "fixed: {training.max_steps: 1.5}\n", "2:29", "a whole number is expected"),
    ("true for count", HEAD + "fixed: {training.max_steps: true}\n", "2:29", "read by YAML as true"),
    ("range", HEAD + "fixed:\n  loss.temperature: -0.1\n", "3:21", "is not > 0"),
    ("range of budget", HEAD + "budget: {trials: 0}\n", "2:18", "is not >= 1"),
    ("log from 0", HEAD + "tune:\n  loss.temperature:\n    low: 0\n    high: 1\n    log: true\n", "4:10", "log scale"),
    ("low above high", HEAD + "tune:\n  loss.temperature: {low: 2.0, high: 1.0}\n", "3:27", "above high"),
    ("low below field", HEAD + "tune:\n  loss.temperature: {low: -1, high: 1}\n", "3:27", "is not > 0"),
    ("range of a count", HEAD + "tune:\n  data.num_pairs: {low: 1, high: 9}\n", "3:19", "whole number"),
    ("range of a word", HEAD + "tune:\n  loss.pooling: {low: 1, high: 9}\n", "3:17", "no number"),
    ("choice", HEAD + "tune:\n  loss.pooling: {choices: [last, first]}\n", "3:34", '"first" is not known'),
    ("choices repeat", HEAD + "tune:\n  loss.pooling: {choices: [last, last]}\n", "3:28", "repeat"),
    ("method", HEAD + "compare: {method: [base, apf]}\n", "2:26", '"apf" is not known'),
    ("compare empty", HEAD + "compare: {method: []}\n", "2:19", "compare.method is empty"),
    ("compare no list", HEAD + "compare: {method: afp}\n", "2:19", "a list is expected"),
    ("arm field", HEAD + "arms:\n  full:\n    loss: {poling: mean}\n", "4:12", "unknown field 'loss.poling'"),
    ("arm value", HEAD + "arms:\n  full: {loss.pooling: men}\n", "3:24", 'loss.pooling = "men" is not known'),
    ("arm method", HEAD + "arms: {full: {method: apf}}\n", "2:23", '"apf" is not known'),
    ("arm name", HEAD + "arms:\n  a: {}\n  full > base: {method: cit}\n", "4:3", "cannot be an arm's name"),
    ("arm without fields", HEAD + "arms:\n  full:\n", "3:8", "arms.full = null is null, a mapping is expected"),
    ("arm seed", HEAD + "arms: {full: {seed: 1}}\n", "2:15", "`seed` is never an arm's own"),
    (
        "arm against fixed",
        HEAD + "fixed: {data.languages: [zh, th]}\narms:\n  a: {}\n  thai: {data.pivot: th}\n",
        "5:22",
        "the pivot 'th' is also in `languages`",
    ),
    (
        "task by name",
        HEAD + "fixed:\n  evaluation:\n    tasks: {xcopa: [zh], xnlii: [zh]}\n",
        "4:26",
        "evaluation.tasks.xnlii is not known",
    ),
    ("task's language", HEAD + "fixed: {evaluation.tasks: {xcopa: [zh, iw]}}\n", "2:40", "language 'iw' is unknown"),
    ("task of no language", HEAD + "fixed: {evaluation.tasks: {xcopa: []}}\n", "2:35", "at least 1 item"),
    ("task of a word", HEAD + "fixed: {evaluation.tasks: {xcopa: zh}}\n", "2:35", "a list is expected"),
    (
        "languages twice",
        HEAD + "fixed:\n  evaluation.languages: [zh]\n  evaluation.tasks: {xcopa: [zh]}\n",
        "3:25",
        "`languages` has no effect where `tasks` gives each task its own",
    ),
    ("seeds repeat", HEAD + "seeds: [1, 1]\n", "2:8", "repeats"),
    ("amount", HEAD + "fixed:\n  data.num_pairs: al\n", "3:19", 'data.num_pairs = "al" is not known'),
    ("amount below 0", HEAD + "fixed:\n  data.num_pairs: -1\n", "3:19", "data.num_pairs = -1 is not >= 0"),
    ("language of ISO 639-3", HEAD + "fixed: {data.languages: [zh, aaa]}\n", "2:30", "'aaa' is not in the table"),
    (
        "language scored",
        HEAD + "fixed:\n  evaluation.languages: [zh, aaa]\n",
        "3:25",
        "language 'aaa' is not in the table",
    ),
    (
        "language without script",
        HEAD + "fixed: {data.language_names: {aaa: {name: Ghotuo}}}\n",
        "2:36",
        "language_names.aaa has no script",
    ),
    (
        "prompt word",
        HEAD + "fixed:\n  data.language_names: {am: {words: {becuase: x}}}\n",
        "3:38",
        "data.language_names.am.words.becuase is not known",
    ),
    ("script", HEAD + "fixed: {data.language_names: {am: {script: ethi}}}\n", "2:44", "script"),
    ("language", HEAD + "fixed: {data: {languages: [zh, xx]}}\n", "2:32", "language 'xx' is unknown"),
    ("pivot twice", HEAD + "fixed: {data.languages: [zh, en]}\n", "2:30", "also in `languages`"),
    ("reserved name", "name: latest\n", "1:7", "cannot be a study's name"),
    ("name with a path", "name: ../evil\n", "1:7", "cannot be a study's name"),
    ("metric", HEAD + "objective: {metric: xcop}\n", "2:21", "'xcop' is not known"),
    ("metric language", HEAD + "objective: {metric: xcopa/xx}\n", "2:21", "'xx' is unknown"),
    ("part of two GPUs", HEAD + "runtime: {gpus_per_worker: 1.5}\n", "2:28", "several are given whole"),
    ("a GPU for two", HEAD + "runtime: {gpus_per_worker: 0.5, workers_per_trial: 2}\n", "2:28", "NCCL"),
    ("list on top", "- name: demo\n", "1:1", "must be a mapping"),
    ("text on top", "hello\n", "1:1", "must be a mapping"),
    ("unclosed", "name: [demo\n", "2:1", "no YAML"),
    ("null name", "name:\n", "1:6", "null"),
    (
        "huge grid",
        HEAD
        + "compare:\n"
        + "".join(f"  loss.{f}: [{', '.join(str(1 + v) for v in range(40))}]\n" for f in ("temperature", "layer")),
        "3:3",
        "1,600 arms",
    ),
    ("crlf", "name: demo\r\nseds: [0]\r\n", "2:1", "unknown field"),
]


@pytest.mark.parametrize(("text", "where", "words"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_refused_at_its_place(tmp_path: Path, text: str, where: str, words: str) -> None:
    error = refused(tmp_path, text)
    assert words in error.problem.split("\n")[0]
    assert error.where == f"{tmp_path}/study.yaml:{where}"


def test_the_source_line_is_shown_with_a_caret(tmp_path: Path) -> None:
    error = refused(tmp_path, HEAD + "fixed:\n  loss.temperature: -0.1\n")
    assert error.problem.split("\n") == [
        "loss.temperature = -0.1 is not > 0",
        "        1 | name: demo",
        "        2 | fixed:",
        "        3 |   loss.temperature: -0.1",
        "                                ^",
    ]
    assert error.allowed == "> 0"


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("seds: [0]", "did you mean seeds?"),
        ("fixed: {training.max_stpes: 3}", "did you mean training.max_steps?"),
        ("fixed: {max_steps: 3}", "did you mean training.max_steps?"),
        ("compare: {method: [apf]}", "did you mean afp?"),
        ("fixed: {data.pivot: true}", 'write "true"'),
        ("fixed: {loss.symmetric: on}", "write true"),
        ("fixed: {loss.symmetric: No}", "write false"),
        ("fixed: {model.revision: 12e3}", 'write "12e3"'),
        ("fixed: {model.revision: 12e4567}", 'write a finite number, or "12e4567" for text'),
        ("fixed: {training.max_steps: 2e2}", "write 200"),
        ('fixed: {training.max_steps: "200"}', "remove the quotes"),
        ("seeds: [010]", 'write 10, or "010"'),
        ("compare: {method: afp}", "write [afp]"),
        ("fixed: {training.max_steps: 200.0}", "write 200"),
    ],
)
def test_the_fix_says_what_to_write(tmp_path: Path, text: str, fix: str) -> None:
    assert refused(tmp_path, f"{HEAD}{text}\n").fix == fix


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (codecs.BOM_UTF8 + b"name: demo\n", "byte order mark"),
        ("name: demo\n".encode("utf-16"), "UTF-16"),
        (b"name: de\0mo\n", "NUL"),
        (b"name: caf\xe9\n", "0xe9 is not UTF-8"),
        (b"", "empty"),
        (b"# only a comment\n", "empty"),
        (b"#" * 1_000_001, "1,000,001 bytes"),
        (b"name: \x1b[31m\n", "no YAML"),
    ],
)
def test_bytes_that_are_no_plain_text_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    assert words in refused(tmp_path, data).problem


def test_a_billion_laughs_is_refused_at_once(tmp_path: Path) -> None:
    rows = ["a0: &a0 [lol, lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    assert "expand without end" in refused(tmp_path, "\n".join(rows)).problem
    many = "a: &a 1\nb: [" + ", ".join(["*a"] * 101) + "]\n"
    assert "more than 100 aliases" in refused(tmp_path, many).problem


@pytest.mark.parametrize("text", ["seeds: [{}]\n", "fixed: {{data.num_pairs: 1, x: [{}]}}\n"])
def test_a_list_of_half_a_million_numbers_is_refused_at_its_place_within_seconds(tmp_path: Path, text: str) -> None:
    started = time.process_time()
    error = refused(tmp_path, text.format(",".join("1" for _ in range(499_000))))
    assert time.process_time() - started < 5
    assert error.problem.startswith("more than 50,000 keys and values\n")
    assert "low, high" in error.fix
    assert ":1:" in error.where or ":2:" in error.where


def test_scalars_mean_what_yaml_1_2_says(tmp_path: Path) -> None:
    head = "name: 2026-01-02\ndescription: no\nseeds: [0o10, 0x10, 1_000]\nbudget: {gpu_hours: .5e1, wall_s: 1E+3}\n"
    study = load_study(write(tmp_path, head + "fixed:\n  training.learning_rate: 1e-5\n  model.revision: 0891234\n"))
    assert (study.name, study.description, study.seeds) == ("2026-01-02", "no", (8, 16, 1000))
    assert (study.budget.gpu_hours, study.budget.wall_s) == (5.0, 1000.0)
    assert study.fixed == {"training.learning_rate": 1e-5, "model.revision": "0891234"}
    old = write(tmp_path, "%YAML 1.1\n---\n" + HEAD + "description: on\n")
    assert load_study(old).description == "on"


def test_a_plain_alias_is_allowed(tmp_path: Path) -> None:
    text = HEAD + "fixed: {data.languages: &l [zh, sw], evaluation.languages: *l}\n"
    assert load_study(write(tmp_path, text)).fixed["evaluation.languages"] == ["zh", "sw"]


def test_named_arms_are_read_dotted_or_nested_and_set_by_name(tmp_path: Path) -> None:
    text = HEAD + "arms:\n  full: {method: afp}\n  v1.5: {method: afp, loss: {pooling: mean}}\n"
    overrides = ["arms.full.loss.temperature=0.2", "arms.v1.5.loss.pooling=last", "arms.cit={method: cit}"]
    study = load_study(write(tmp_path, text), [*overrides, "arms.new.loss.layer=2"])
    assert study.arms == {
        "full": {"method": "afp", "loss.temperature": 0.2},
        "v1.5": {"method": "afp", "loss.pooling": "last"},
        "cit": {"method": "cit"},
        "new": {"loss.layer": 2},
    }
    error = refused(tmp_path, text, "arms.full.loss.poling=last")
    assert (error.problem, error.fix) == ("unknown field 'loss.poling'", "did you mean loss.pooling?")


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(ConfigError) as caught:
        load_study(tmp_path / "stduy.yaml")
    assert caught.value.fix == f"did you mean {tmp_path / 'study.yaml'}?"
    with pytest.raises(ConfigError, match="folder"):
        load_study(tmp_path)


def test_set_is_above_the_file(tmp_path: Path) -> None:
    overrides = [
        "training.max_steps=7",
        "budget.trials=3",
        "seeds=[4, 5]",
        "compare.method=[base, cit]",
        "tune.loss.temperature.low=0.02",
        "name=other",
    ]
    study = load_study(write(tmp_path, GOOD), overrides)
    assert study.fixed["training.max_steps"] == 7
    assert (study.budget.trials, study.seeds, study.name) == (3, (4, 5), "other")
    assert study.compare == {"method": ("base", "cit")}
    assert study.tune["loss.temperature"].model_dump()["low"] == 0.02


@pytest.mark.parametrize(
    ("override", "problem", "fix"),
    [
        ("training.max_stpes=7", "unknown field 'training.max_stpes'", "did you mean training.max_steps?"),
        ("budget.trails=7", "unknown field 'budget.trails'", "did you mean budget.trials?"),
        ("fixed.loss.poling=last", "unknown field 'loss.poling'", "did you mean loss.pooling?"),
        ("training.max_steps", "'training.max_steps' is no `name=value`", "write --set training.max_steps=200"),
        ("training.max_steps=ten", 'training.max_steps = "ten" is text, a whole number is expected', ""),
        ("training.learning_rate=1e400", "1e400 is not a finite number", 'write a finite number, or "1e400" for text'),
        ("data.pivot=true", "data.pivot: true was read by YAML as true", 'write "true"'),
        ("loss.temperature=0.1", "loss.temperature is in both `fixed` and `tune`", "keep one"),
        ("data.languages=[iw]", "language 'iw' is unknown", "write he"),
        ("fixed={data: {languages: [th, iw]}}", "language 'iw' is unknown", "write he"),
        ("data.sources=[{kind: tsv}]", "source kind tsv needs a `path`", ""),
        ("evaluation.tasks=[xcopa, xnlii]", 'evaluation.tasks = "xnlii" is not known', "did you mean xnli?"),
        ("seeds=[1, a]", 'seeds = "a" is text, a whole number is expected', ""),
        (
            "data.sources=[{kind: tsv, path: true}]",
            "data.sources.0.path: true was read by YAML as true",
            'write "true"',
        ),
    ],
)
def test_a_wrong_set_names_itself(tmp_path: Path, override: str, problem: str, fix: str) -> None:
    error = refused(tmp_path, GOOD, override)
    assert (error.problem.split("\n")[0], error.fix) == (problem, fix)
    assert re.fullmatch(rf"--set( {re.escape(override)})?", error.where)


def test_a_trial_that_was_written_is_read_again(tmp_path: Path) -> None:
    """Whole sections that are a word or null by default included."""
    file = tmp_path / "trial.json"
    file.write_text(TrialConfig().model_dump_json(), "utf-8")
    assert load_trial(file) == TrialConfig()


def test_a_trial_file_is_pinned_by_its_method(tmp_path: Path) -> None:
    path = write(tmp_path, "method: cit\nloss.temperature: 0.3\ntraining: {max_steps: 4}\n")
    trial = load_trial(path, ["data.num_instructions=6"], methods=METHODS)
    assert (trial.loss.contrastive_weight, trial.loss.temperature) == (0.0, 0.05)
    assert (trial.training.max_steps, trial.data.num_instructions, trial.data.num_pairs) == (4, 6, 0)


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("method: afp\nloss: {temprature: 1.0}\n", "2:8", "unknown field 'loss.temprature'"),
        ("training.max_steps: -1\n", "1:21", "training.max_steps = -1 is not >= 0"),
        ("evaluation: {tasks: [xcopa, xnlii]}\n", "1:29", '"xnlii" is not known'),
        ("data: {sources: [{kind: tsv}]}\n", "1:18", "needs a `path`"),
        ("data: {sources: [{kind: tvs, path: x}]}\n", "1:25", '"tvs" is not known'),
        ("data.sources: [{kind: tsv, pth: x}]\n", "1:28", "unknown field 'data.sources.0.pth'"),
    ],
)
def test_a_wrong_trial_file_is_refused_at_its_place(tmp_path: Path, text: str, where: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_trial(write(tmp_path, text))
    assert words in caught.value.problem
    assert caught.value.where == f"{tmp_path}/study.yaml:{where}"
