"""What terminals, pipes, paths and file names of real users do to the command: each has its code and one message."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fabricate import fabricate

from afp_ray.languages import known_language
from afp_ray.store import StudyPaths
from afp_ray.tracking.location import default_uri, open_command, sqlite_file
from services import cli
from services.output import plain

ROOT = Path(__file__).resolve().parents[2]
AFP = [sys.executable, "-m", "services.cli"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"))


def shell(command: str, *, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line for bash, in which `afp` is this command."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    line = f'afp() {{ {" ".join(AFP)} "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=variables, capture_output=True, text=True, timeout=100, check=False
    )


def code_of(command: str, **environment: str) -> int:
    done = shell(command, **environment)
    assert "Traceback" not in done.stderr + done.stdout
    assert "bug of afp_ray" not in done.stderr
    return done.returncode


@pytest.mark.parametrize("verb", ["--help", "best demo", "compare demo", "compare demo --json", "status demo --json"])
def test_a_reader_that_goes_is_no_error(verb: str, finished: StudyPaths) -> None:
    storage = "" if verb == "--help" else f"--storage {finished.storage}"
    assert code_of(f"afp {verb} {storage} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}") in (0, 141)
    assert code_of(f"afp {verb} {storage} | true; exit ${{PIPESTATUS[0]}}") in (0, 141)


@pytest.mark.parametrize("verb", ["--help", "best demo", "compare demo --json"])
def test_a_closed_output_is_no_error_and_a_full_one_is_said(verb: str, finished: StudyPaths) -> None:
    storage = "" if verb == "--help" else f"--storage {finished.storage}"
    assert code_of(f"afp {verb} {storage} >&-") == 0
    assert code_of(f"afp {verb} {storage} >&- 2>&-") == 0
    full = shell(f"afp {verb} {storage} > /dev/full")
    assert full.returncode == 75
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr


def test_what_an_output_cannot_show_comes_escaped(tmp_path: Path) -> None:
    encodings = ("ascii", "latin-1", "utf-8")
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: x\nfixed: {data.languages: [zh], data.num_pairs: 8, training.max_steps: 2, training.batch_size: 4,\n"
        "  evaluation.tasks: [xcopa], evaluation.limit: 4, evaluation.representation.num_pairs: 4}\n"
        "compare: {method: [mcl]}\n"
    )
    code = (
        "import sys; from services import cli, output\n"
        "for number, encoding in enumerate(sys.argv[2:]):\n"
        "    assert number or sys.stdout.encoding == encoding\n"
        "    sys.stdout.reconfigure(encoding=encoding)\n"
        "    output.open_streams()\n"
        "    for options in ([], ['--json']):\n"
        "        code = cli.main(['data', 'inspect', sys.argv[1], *options])\n"
        "        print('\\0', code, end='\\0', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(study), *encodings]
    variables = {**os.environ, "PYTHONIOENCODING": encodings[0]}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, check=False)
    parts = done.stdout.split(b"\0")
    assert len(parts) == 4 * len(encodings) + 1, done.stderr
    for encoding, start in zip(encodings, range(0, len(parts), 4), strict=False):
        shown, first, document, second = (part.decode(encoding) for part in parts[start : start + 4])
        assert (first, second) == (" 0", " 0"), done.stderr
        assert shown
        assert json.loads(document)
        assert document.isascii() == (encoding != "utf-8")


def test_control_characters_of_the_data_are_shown_and_not_obeyed(
    finished: StudyPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plain("a\x1b[2Jb\rc\x9bd\u202ee\x00\tf\n") == "a\\x1b[2Jb\\x0dc\\u009bd\\u202ee\\x00\tf\n"
    assert plain("שלום \u200f ไทย 中文 नमस्ते") == "שלום \u200f ไทย 中文 नमस्ते"
    pairs = [f"Sentence {number} \x1b[31mred\x1b[0m\u202e\t这是第{number}句\x9b2J" for number in range(20)]
    (tmp_path / "pairs.tsv").write_text("\n".join(pairs), encoding="utf-8")
    study = tmp_path / "study.yaml"
    study.write_text(
        f"name: x\nfixed: {{data.languages: [zh], data.num_pairs: 8, data.sources: [{{kind: tsv, path: "
        f"{tmp_path}/pairs.tsv}}],\n  training.max_steps: 2, training.batch_size: 4, evaluation.tasks: [xcopa],\n"
        "  evaluation.limit: 4, evaluation.representation.num_pairs: 4}\ncompare: {method: [mcl]}\n"
    )
    for options in ([], ["--json"]):
        assert cli.main(["data", "inspect", str(study), *options]) == 0
        shown = capsys.readouterr()
        assert not set("\x1b\x9b\u202e\r") & set(shown.out + shown.err)
    assert cli.main(["status", "\x1b[31mred", "--storage", str(finished.storage)]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("delay_s", [0.15, 0.25, 0.4, 0.7])
def test_ctrl_c_ends_the_command_in_one_line_from_its_start(delay_s: float) -> None:
    command = [sys.executable, "-c", "from services.entry import command; command()", "plan", "demo"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # Before its first line the interpreter itself answers; after its last there is nothing to interrupt.
    assert (process.returncode, said) == (130, "interrupted\n") or delay_s == 0.15 or process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "~nosuch/study.yaml"], "~"),
        (["status", "demo", "--storage", "~nosuch/x"], "~"),
        (["eval", "~nosuch/model", "--tasks", "xcopa", "--languages", "en"], "~"),
        (["plan", "demo", "--set", "data.sources=[{kind: tsv, path: ~nosuch/x.tsv}]"], "~"),
        (["plan", "a" * 5000], "too long"),
        (["status", "demo", "--storage", "a" * 5000], "too long"),
        (["data", "inspect", "a" * 5000], "too long"),
        (["submit", "demo", "--address", "http://127.0.0.1:xx"], "dashboard"),
        (["submit", "demo", "--address", "http://[::1"], "dashboard"),
        (["plan", "demo", "--set", "budget.wall_s=1e400"], "1e400"),
        (["plan", "demo", "--set", "tune.loss.foo=1"], "loss.foo"),
        (["plan", "demo", "--set", "data.languages=[iw]"], "write he"),
        (["plan", "demo", "--set", "data.languages=[zh-Hans]"], "write zh"),
        (["plan", "demo", "--set", "data.pivot=eng"], "write en"),
        (["plan", "demo", "--set", "evaluation.languages=[jp]"], "write ja"),
        (["plan", "demo", "--set", "objective.metric=xnli/iw"], "write he"),
        (["eval", "embedded", "--tasks", "xcopa", "--languages", "iw"], "'iw' is unknown\nfix    write he"),
        (["eval", "embedded", "--tasks", "xcopa", "--languages", "zho_Hans"], "'zho_Hans' is unknown\nfix    write zh"),
        (["eval", "embedded", "--tasks", "xcopa", "--languages", "no"], "xcopa has no embedded rows in 'no'"),
        (["eval", "embedded", "--tasks", "xcopa", "--languages", "zh", "--pivot", "en-US"], "write en"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_to_write(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["afp", *arguments])
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "'pivot': 'en'" not in said  # no configuration is poured out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "x", "name": "y"}', "stands twice"),
        ('{"name": "x", "budget": {"wall_s": 1e400}}', "1e400"),
        ('{"name": "x", "budget": {"wall_s": NaN}}', "NaN"),
    ],
)
def test_a_study_in_json_is_read_as_strictly_as_one_in_yaml(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.json").write_text(text)
    assert cli.main(["plan", str(tmp_path / "study.json")]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("value", ["seconds=inf", "gpu_hours=1e999", "seconds=nan"])
def test_a_limit_is_a_number(value: str, finished: StudyPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["best", "demo", "--under", value, "--storage", str(finished.storage)]) == 2
    assert "is no limit" in capsys.readouterr().err


def test_a_removed_working_folder_is_said(tmp_path: Path) -> None:
    for verb in ("status demo", "plan demo"):
        done = shell(f"mkdir gone && cd gone && rmdir ../gone && afp {verb}", cwd=tmp_path)
        assert done.returncode == 2
        assert "working folder no longer exists" in done.stderr


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "RAY_ADDRESS", "AFP_FAILPOINT"])
def test_an_environment_that_cannot_be_is_refused_at_the_start(name: str, tmp_path: Path) -> None:
    value = {"MLFLOW_TRACKING_URI": "htp://x", "RAY_ADDRESS": "foo", "AFP_FAILPOINT": "a:b"}[name]
    done = shell(f"afp run demo --storage {tmp_path / 'runs'}", **{name: value})
    assert done.returncode == 2
    assert value in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["what?", "p%25c", "a b'c#d", "x&y;z", "名前", '"quoted"', "a$HOME"])
def test_runs_lie_in_a_storage_of_any_name(name: str, tmp_path: Path) -> None:
    import sqlalchemy  # through which MLflow opens its database

    storage = tmp_path / name
    storage.mkdir()
    uri = default_uri(storage)
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE x (y INT)"))
    engine.dispose()
    assert [path.name for path in storage.iterdir()] == ["mlflow.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sqlite_file(uri) == storage / "mlflow.db"
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {open_command(uri)}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[:4] == ["mlflow", "server", "--backend-store-uri", uri]


@pytest.mark.parametrize(
    ("written", "code"),
    [
        *(("iw", "he"), ("zh-Hans", "zh"), ("zho_Hans", "zh"), ("zh_CN", "zh"), ("jp", "ja"), ("eng", "en")),
        *(("ZH", "zh"), ("en-US", "en"), ("Thai", "th"), ("swa", "sw"), ("no", "no"), ("xx", ""), ("", "")),
        *(("cn", "zh"), ("kr", "kr"), ("sh", "sr"), ("Amharic", "am"), ("orm", "om"), ("gaz", "om"), ("aaa", "")),
        *(("gr", "el"), ("cz", "cs"), ("ua", "uk"), ("in", "id"), ("pt-BR", "pt")),
        *(("zh-Hans-CN", "zh"), ("zh-SG", "zh"), ("ko-Hang", "ko"), ("zho_Hani", "zh"), ("ru-Cyrl-RU", "ru")),
        *(
            ("zh-Hant", ""),
            ("zh-TW", ""),
            ("zht", ""),
            ("zho_Hant", ""),
            ("hi-Latn", ""),
            ("sr-Latn", ""),
            ("ji", "yi"),
        ),
    ],
)
def test_what_people_write_for_a_language(written: str, code: str) -> None:
    assert known_language(written) == code


OTHER = "{}, so write {}, and for another script data.language_names: {{{}: {{script: ...}}}}"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("ji", "write yi"),
        ("sr-Latn", OTHER.format("sr is Serbian in Cyrl", "sr", "sr")),
        ("zh-Hant", OTHER.format("zh is Chinese in Hans", "zh", "zh")),
        ("zh-TW", OTHER.format("zh is Chinese in Hans", "zh", "zh")),
        ("pt-BR", "write pt"),
        ("in", "write id"),
    ],
)
def test_every_language_without_a_code_here_gets_its_fix(
    written: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", "embedded", "--tasks", "xcopa", "--languages", written]) == 2
    assert capsys.readouterr().err == f"error  --languages  language {written!r} is unknown\nfix    {said}\n"


def small_study(tmp_path: Path, lines: str) -> str:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: x\nfixed: {data.languages: [zh], data.num_pairs: 8, data.num_instructions: 0, training.max_steps: 2,\n"
        "  training.batch_size: 4, evaluation.tasks: [xcopa], evaluation.limit: 4,\n"
        f"  evaluation.representation.num_pairs: 4}}\n{lines}\n"
    )
    return str(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_null_is_a_value_of_fields_that_may_be_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_study(
        tmp_path,
        "compare: {method: [mcl], training.max_grad_norm: [null, 1.0]}\n"
        "tune: {data.language_temperature: {choices: [null, 5.0]}}\nbudget: {trials: 5}\nseeds: [0]\n"
        "runtime: {executor: local}",
    )
    storage = str(tmp_path / "runs")
    assert cli.main(["run", path, "--storage", storage]) == 0  # a space that is used up ends the search and confirms
    capsys.readouterr()
    assert cli.main(["compare", "x", "--storage", storage, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {arm["arm"] for arm in table["arms"]} == {
        "method=mcl,training.max_grad_norm=null",
        "method=mcl,training.max_grad_norm=1.0",
    }
    assert cli.main(["status", "x", "--storage", storage, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 4


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("compare: {method: [mcl], loss.temperature: [null, 0.1]}", "loss.temperature cannot be null"),
        ("compare: {method: [mcl]}\ntune: {loss.layer: {choices: [null, 1]}}", "loss.layer cannot be null"),
        ("compare: {method: [mcl]}\ntune: {loss.temperature: {choices: [1, 1.0]}}", "1 and 1.0 are one"),
        ("compare: {method: [mcl], loss.temperature: [1, 1.0]}", "1 and 1.0 are one"),
    ],
)
def test_values_are_compared_as_their_field_reads_them(
    lines: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", small_study(tmp_path, lines)]) == 2
    assert words in capsys.readouterr().err


def test_ctrl_c_is_said_while_a_verb_works() -> None:
    code = (
        "import signal; from services import cli, studies\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which who runs this may ignore
        "studies.storage_folder = lambda _: signal.raise_signal(signal.SIGINT)\n"
        "cli.command()"
    )
    done = subprocess.run([sys.executable, "-c", code, "status"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_who_ignores_ctrl_c_goes_on_ignoring_it(finished: StudyPaths) -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from services import cli, studies\n"
        "folder = studies.storage_folder\n"
        "studies.storage_folder = lambda name: signal.raise_signal(signal.SIGINT) or folder(name)\n"
        "from services.entry import command; command()"
    )
    command = [sys.executable, "-c", code, "status", "--storage", str(finished.storage)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("localhost", socket.AF_INET)])
def test_a_port_in_use_is_away_for_now(host: str, family: socket.AddressFamily, tmp_path: Path) -> None:
    with socket.socket(family) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = shell(f"afp serve --host {host} --port {other.getsockname()[1]} --storage {tmp_path}")
    assert done.returncode == 75
    assert "Address already in use; end the other server, or give --port" in done.stderr
    assert "ERROR" not in done.stderr


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31m", "a\tb"])
def test_a_storage_with_control_characters_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "--storage", name]) == 2
    assert capsys.readouterr().err.startswith(f"error  --storage  {name!r} has a line end")
    monkeypatch.setenv("AFP_STORAGE", name)
    assert cli.main(["status"]) == 2
    assert capsys.readouterr().err.startswith("error  AFP_STORAGE")
