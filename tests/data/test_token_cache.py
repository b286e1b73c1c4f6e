"""The token cache: equal to fresh tokenisation, made once whoever asks, and never trusted when damaged."""

import multiprocessing
import os
import resource
import shutil
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from token_cases import Letters, ask_at_once, build_forever, digest, logged, make_instructions, make_pairs

from afp_ray.data import token_cache
from afp_ray.data.batches import Batching, TrainingBatches
from afp_ray.data.order import BatchOrder
from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.data.token_cache import cached_instructions, cached_pairs
from afp_ray.data.token_file import read_token_file
from afp_ray.data.tokenizer_content import tokenizer_fingerprint
from afp_ray.data.tokens import JOINT, tokenize_instructions, tokenize_pairs
from afp_ray.errors import ConfigError, DataError

LENGTHS = [1, 2, 5, 13, 21, 34, 999]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AFP_CACHE_GB", raising=False)
    return tmp_path / "cache" / "tokens"


def never() -> NoReturn:
    raise AssertionError("rows were asked for although their tokens are there")


def plain_pairs(pairs: Sequence[TranslationPair], tokenizer: Any, max_length: int) -> dict[str, Any]:
    """What the tokens of `pairs` must be, row by row."""
    rows, keys, dropped = [], [], 0
    for pair in pairs:
        source, target = tokenizer([pair.source, pair.target])["input_ids"]
        if source and target:
            rows.append((source[:max_length], target[:max_length]))
            keys.append((pair.source, pair.target))
            dropped += max(0, len(source) - max_length) + max(0, len(target) - max_length)
    return {"rows": rows, "keys": keys, "dropped": dropped, "refused": len(pairs) - len(rows)}


def plain_instructions(rows: Sequence[Instruction], tokenizer: Any, max_length: int) -> dict[str, Any]:
    kept, boundaries, dropped = [], [], 0
    for row in rows:
        prompt, whole = tokenizer([row.prompt, row.prompt + JOINT + row.response])["input_ids"]
        whole = whole if len(whole) > 1 and whole[-1] == tokenizer.eos_token_id else [*whole, tokenizer.eos_token_id]
        boundary = 0
        while boundary < min(len(prompt), len(whole)) and prompt[boundary] == whole[boundary]:
            boundary += 1
        boundary = max(1, boundary)
        if boundary >= min(len(whole), max_length) or boundary >= len(whole) - 1:
            dropped += len(whole)
            continue
        dropped += max(0, len(whole) - max_length)
        kept.append(whole[:max_length])
        boundaries.append(boundary)
    return {"rows": kept, "boundaries": boundaries, "dropped": dropped, "refused": len(rows) - len(kept)}


def same_pattern(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether both repeat themselves at the same places."""
    return len(set(first)) == len(set(second)) == len(set(zip(first, second, strict=True)))


@pytest.mark.parametrize("count", [1, 1024, 1100])
def test_mapped_tokens_are_those_of_a_fresh_tokenisation(count: int) -> None:
    pairs, rows, tokenizer = make_pairs(count), make_instructions(count), Letters()
    for make_p, make_i in ((lambda: pairs, lambda: rows), (never, never)):  # first made, then found
        found_pairs, found_rows = cached_pairs("p", tokenizer, make_p), cached_instructions("i", tokenizer, make_i)
        for max_length in LENGTHS:
            expected = plain_pairs(pairs, tokenizer, max_length)
            for cut in (found_pairs.cut(max_length), tokenize_pairs(pairs, tokenizer, max_length=max_length)):
                sides = [[side[index].tolist() for index in range(len(side))] for side in (cut.sources, cut.targets)]
                assert list(zip(*sides, strict=True)) == expected["rows"]
                assert (cut.dropped_tokens, cut.refused) == (expected["dropped"], expected["refused"])
                for side in (0, 1):
                    assert same_pattern([key[side] for key in cut.keys], [key[side] for key in expected["keys"]])
                assert not {key[0] for key in cut.keys} & {key[1] for key in cut.keys}
            expected = plain_instructions(rows, tokenizer, max_length)
            if not expected["rows"]:
                with pytest.raises(DataError, match=f"left after cutting to {max_length} tokens"):
                    found_rows.cut(max_length)
                continue
            for own in (found_rows.cut(max_length), tokenize_instructions(rows, tokenizer, max_length=max_length)):
                assert [own.rows[index].tolist() for index in range(len(own.rows))] == expected["rows"]
                assert own.boundaries == expected["boundaries"]
                assert (own.dropped_tokens, own.refused) == (expected["dropped"], expected["refused"])
                lengths = [len(row) - start for row, start in zip(own.rows, own.boundaries, strict=True)]
                assert [own.num_supervised(index) for index in range(len(own.rows))] == lengths


def test_batches_of_mapped_tokens_are_those_of_the_rows(make_tokenizer: Any, cache: Path) -> None:
    tokenizer = make_tokenizer(["where is the boat", "船在哪里"], template="<s> $A")
    pairs, rows = make_pairs(300), make_instructions(300)
    cached_pairs("p", tokenizer, lambda: pairs), cached_instructions("i", tokenizer, lambda: rows)
    for max_length in (12, 40):
        batching = Batching(batch_size=16, max_length=max_length, seed=3)
        fresh = TrainingBatches(pairs, rows, tokenizer, batching)
        cached = cached_pairs("p", tokenizer, never), cached_instructions("i", tokenizer, never)
        held = TrainingBatches(*cached, tokenizer, batching)
        names = ("num_pairs", "num_instructions", "refused_pairs", "refused_instructions", "dropped_tokens")
        assert [getattr(fresh, name) for name in names] == [getattr(held, name) for name in names]
        for step in (0, 7, 30):
            one, other = fresh.batch(step), held.batch(step)
            assert one.num_supervised == other.num_supervised
            for mine, yours in zip((one.pairs, *one.instructions), (other.pairs, *other.instructions), strict=True):
                for name in mine.__slots__:  # type: ignore[union-attr]
                    assert torch.equal(getattr(mine, name), getattr(yours, name))
    maps = Path("/proc/self/maps").read_text()
    assert all(str(path) in maps for path in cache.glob("*.arrow"))  # they are mapped, not read


def test_digests_draw_the_batches_that_texts_draw() -> None:
    pairs = make_pairs(500)
    texts = [(("source", pair.source), ("target", pair.target)) for pair in pairs]
    cut = tokenize_pairs(pairs, AnyText(), max_length=9)
    for seed in (0, 1):
        orders = [BatchOrder(keys, batch_size=24, seed=seed, name="pairs") for keys in (texts, cut.keys)]
        for step in (0, 5, 20, 45, 70):
            assert orders[0].rows(step) == orders[1].rows(step)


class AnyText(Letters):
    """One id for every text."""

    def __call__(self, text: list[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[2] for _ in text]}


def test_a_side_that_equals_the_other_sides_text_is_another_key() -> None:
    same = TranslationPair("taxi", "taxi", "en", "sw", "1")
    ((source, target),) = tokenize_pairs([same], Letters(), max_length=9).keys
    assert source != target


def test_four_processes_that_start_together_make_the_tokens_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(4), context.Queue()
    workers = [context.Process(target=ask_at_once, args=(barrier, answers, str(tmp_path))) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = {answers.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
    fresh = token_cache.PairTokens(token_cache.pair_chunks(make_pairs(1500), Letters()))
    rows = token_cache.InstructionTokens(token_cache.instruction_chunks(make_instructions(1500), Letters()))
    assert found == {(digest(fresh), digest(rows))}
    for log in ("pairs.log", "instructions.log"):
        assert len((tmp_path / log).read_text().splitlines()) == 1
    assert len(list((tmp_path / "tokens").glob("*.arrow"))) == 2


def test_a_process_that_dies_while_it_tokenises_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    worker = context.Process(target=build_forever, args=(started, str(tmp_path)))
    worker.start()
    assert started.wait(timeout=120)
    worker.kill()
    worker.join()
    monkeypatch.setenv("AFP_CACHE", str(tmp_path))
    (orphan,) = (tmp_path / "tokens").glob("*.partial")
    assert len(cached_pairs("p", Letters(), lambda: make_pairs(40))) == 40
    assert orphan.exists()  # its owner might still have been at work
    os.utime(orphan, (0, 0))
    cached_pairs("q", Letters(), lambda: make_pairs(40))
    assert not orphan.exists()


def built(cache: Path, key: str = "p", count: int = 60) -> Path:
    """The file of the pairs of `key`, made here."""
    before = set(cache.glob("*.arrow"))
    cached_pairs(key, Letters(), lambda: make_pairs(count))
    (path,) = set(cache.glob("*.arrow")) - before
    return path


def test_a_damaged_file_is_made_again_and_never_trusted(cache: Path, tmp_path: Path) -> None:
    path = built(cache)
    whole, expected = path.read_bytes(), digest(cached_pairs("p", Letters(), never))
    foreign = built(cache, "other").read_bytes()
    log = tmp_path / "log"
    damaged = [b"", b"no arrow file" * 50, foreign, whole + b"\0", whole[: len(whole) // 2], whole[:-1], whole[1:]]
    for number, content in enumerate(damaged, start=1):
        path.unlink()
        path.write_bytes(content)
        assert digest(cached_pairs("p", Letters(), logged(make_pairs(60), log))) == expected
        assert len(log.read_text().splitlines()) == number
        assert path.read_bytes() == whole


def test_no_changed_byte_gets_through(cache: Path) -> None:
    path = built(cache, count=12)
    whole, content = path.read_bytes(), content_of(path)
    expected = repr(read_token_file(path, content))
    refused = 0
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        path.unlink()  # a new file: this process may still have the old one mapped
        path.write_bytes(changed)
        found = read_token_file(path, content)
        refused += found is None
        assert found is None or repr(found) == expected  # bytes that only fill up hold nothing
    assert refused > len(whole) / 7 / 3


def content_of(path: Path) -> str:
    import pyarrow as pa

    return str(pa.ipc.open_file(str(path)).schema.metadata[b"afp_content"].decode())


def test_another_format_is_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = built(cache)
    monkeypatch.setattr(token_cache, "FORMAT", token_cache.FORMAT + 1)
    assert built(cache) != path


@contextmanager
def small_files() -> Iterator[None]:
    """The system refuses files beyond 4 kB, as a full disk does.

    Around the one call only: a fixture would still hold when pytest writes its own progress, and a
    report that goes to a file is longer than that.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_the_cache_and_not_the_trial(cache: Path) -> None:
    message = "tokens cannot be kept in .*File too large.*AFP_CACHE"
    with pytest.warns(RuntimeWarning, match=message) as caught, small_files():
        found = cached_pairs("p", Letters(), lambda: make_pairs(2000))
    assert len(caught) == 1
    assert digest(found) == digest(token_cache.PairTokens(token_cache.pair_chunks(make_pairs(2000), Letters())))
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_costs_the_cache_and_not_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="tokens cannot be kept") as caught:
        found = cached_instructions("i", Letters(), lambda: make_instructions(50))
    assert len(caught) == 1
    assert len(found) == 50


def test_an_error_in_making_rows_is_not_taken_for_one_of_the_cache(cache: Path) -> None:
    def broken() -> NoReturn:
        raise FileNotFoundError("rows.tsv")

    with pytest.raises(FileNotFoundError, match=r"rows\.tsv"):
        cached_pairs("p", Letters(), broken)
    tokenizer = Letters()
    tokenizer.eos_token_id = None
    with pytest.raises(DataError, match="no end-of-sequence token"):
        cached_instructions("i", tokenizer, lambda: make_instructions(3))
    assert not list(cache.glob("*.arrow"))
    assert not list(cache.glob("*.partial"))


def test_files_used_longest_ago_make_room_and_stay_readable_where_they_are_mapped(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = cached_pairs("0", Letters(), lambda: make_pairs(60))
    expected = digest(held)
    paths = [*cache.glob("*.arrow"), *(built(cache, key) for key in "12")]
    size = paths[0].stat().st_size
    for path, used in zip(paths, (300, 100, 200), strict=True):
        os.utime(path, (used, used))
    cached_pairs("1", Letters(), never)  # used now, so that it is the newest
    monkeypatch.setenv("AFP_CACHE_GB", str(3.5 * size / 1e9))
    newest = built(cache, "3")
    assert set(cache.glob("*.arrow")) == {paths[0], paths[1], newest}
    monkeypatch.setenv("AFP_CACHE_GB", "0")
    newest = built(cache, "4")
    assert set(cache.glob("*.arrow")) == {newest}
    assert digest(held) == expected


@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_CACHE_GB", value)
    with pytest.raises(ConfigError, match="AFP_CACHE_GB is") as caught:
        cached_pairs("p", Letters(), never)
    assert "20" in caught.value.fix


class Made(Sequence[TranslationPair]):
    """A list of rows that are made when they are looked at."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return [TranslationPair("ab" * 100, "cd" * 50, "en", "sw", "")] * len(range(*index.indices(self._count)))


def test_tokenising_four_times_the_rows_takes_no_more_memory(cache: Path) -> None:
    peaks = []
    for count in (3, 2000, 8000):  # the first is for what is imported on the way
        tracemalloc.start()
        found = cached_pairs(str(count), Letters(), partial(Made, count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert int(found.sources.lengths.sum() + found.targets.lengths.sum()) == 300 * count
    assert peaks[2] < 1.3 * peaks[1] < 300 * 4 * 8000


def test_a_tokenizer_is_known_by_what_it_does(make_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    def made(**options: Any) -> str:
        return tokenizer_fingerprint(make_tokenizer(["where is the boat"], **options))

    tokenizer = make_tokenizer(["where is the boat"])
    same = tokenizer_fingerprint(tokenizer)
    assert made() == made(padding_side="left") == made(truncation_side="left") == made(model_max_length=5) == same
    for folder in ("here", "there"):
        tokenizer.save_pretrained(tmp_path / folder)
    loaded = [AutoTokenizer.from_pretrained(tmp_path / folder) for folder in ("here", "there")]
    assert len({tokenizer_fingerprint(one) for one in loaded}) == 1
    tokenizer(["a", "b b"], padding="max_length", truncation=True, max_length=3)
    assert tokenizer_fingerprint(tokenizer) == same
    others = [
        made(template="<s> $A"),
        made(eos_token="<s>"),
        made(vocab_size=260),
        made(split_special_tokens=True),
        tokenizer_fingerprint(make_tokenizer(["another text altogether"])),
    ]
    tokenizer.add_tokens(["boat"])
    assert len({same, *others, tokenizer_fingerprint(tokenizer)}) == 7


def test_a_tokenizer_in_python_is_known_by_its_vocabulary_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubling(Letters):
        def __call__(self, text: list[str], **options: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[*ids, *ids] for ids in super().__call__(text)["input_ids"]]}

    Doubling.__qualname__ = Letters.__qualname__
    ending = Letters()
    ending.eos_token_id = 5
    found = [tokenizer_fingerprint(one) for one in (Letters(), Letters("ab"), Doubling(), ending)]
    assert len(set(found)) == 4
    assert tokenizer_fingerprint(Letters()) == found[0]
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.9")
    assert tokenizer_fingerprint(Letters()) != found[0]
    with pytest.raises(TypeError, match="neither a backend tokenizer nor a vocabulary"):
        tokenizer_fingerprint(type("Bare", (), {"eos_token_id": 1, "__call__": Letters.__call__, "_ids": {}})())


def test_another_tokenizer_has_other_tokens(cache: Path) -> None:
    one = cached_pairs("p", Letters(), lambda: make_pairs(20))
    other = cached_pairs("p", Letters("jihgfedcba "), lambda: make_pairs(20))
    assert not np.array_equal(one.sources[3], other.sources[3])
    shutil.rmtree(cache)  # may be removed at any time
    assert digest(cached_pairs("p", Letters(), lambda: make_pairs(20))) == digest(one)


def test_a_vocabulary_is_written_out_once_and_again_when_it_or_its_parts_change(
    make_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers.normalizers import Lowercase

    from afp_ray.data import tokenizer_content

    monkeypatch.setattr(tokenizer_content, "_known", OrderedDict())
    tokenizer = make_tokenizer(["where is the boat"])
    first = tokenizer_fingerprint(tokenizer)
    ((backend, _, digest),) = tokenizer_content._known.values()
    seen = tokenizer_content._known[id(backend)][1]
    tokenizer_content._known[id(backend)] = backend, seen, "0" * 64  # what is kept is what is taken
    assert tokenizer_fingerprint(tokenizer) != first
    tokenizer_content._known[id(backend)] = backend, seen, digest
    assert tokenizer_fingerprint(tokenizer) == first
    tokenizer.add_tokens(["harbour"])
    grown = tokenizer_fingerprint(tokenizer)
    assert grown != first
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    assert tokenizer_fingerprint(tokenizer) not in (first, grown)
