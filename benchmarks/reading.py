"""Peak memory of reading a 1 GB corpus against a 10 MB one of the same form: `python -m benchmarks.reading`.

Each file is read in a fresh process that loads the rows through the public functions and draws 10,000 of them. `ours`
is the peak resident memory of the large file in MB, `peer` that of the small one; `ratio` is the limit over ours.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from benchmarks.figures import Figure, show

LIMIT_MB = 600.0
SMALL_BYTES = 10_000_000
LARGE_BYTES = 1_000_000_000
NUM_DRAWN = 10_000
_WORDS = {
    "en": ["the", "of", "river", "bread", "to", "answer", "question", "city", "an", "old", "reason", "lake", "train"],
    "zh": ["的", "河流", "面包", "答案", "问题", "城市", "一个", "古老", "原因", "在", "湖", "谁", "火车"],
}


def main(arguments: list[str] | None = None) -> int:
    """Measure every form and give the exit code: 7 when a peak is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=LARGE_BYTES, help="size of the large file")
    parser.add_argument("--folder", default=None, help="where the files are generated, and removed again")
    parser.add_argument("--forms", nargs="*", default=["bactrian_x", "tsv"], choices=list(WRITERS))
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child is not None:
        sys.stdout.write(json.dumps(read(chosen.child, Path(chosen.folder))) + "\n")
        return 0
    return show([figure for form in chosen.forms for figure in measure(form, chosen.bytes, chosen.folder)])


def measure(form: str, num_bytes: int, folder: str | None = None) -> list[Figure]:
    """Generate a small and a large corpus of `form` and read each, the large one a second time from its cache."""
    with tempfile.TemporaryDirectory(prefix="afp_reading_", dir=folder) as place:
        found = {}
        for name, size in (("small", SMALL_BYTES), ("large", num_bytes)):
            corpus = Path(place) / name
            corpus.mkdir()
            WRITERS[form](corpus, size)
            found[name] = in_process(form, corpus)
        found["again"] = in_process(form, Path(place) / "large")
    label = f"{form} {num_bytes / 1e6:.0f} MB"
    small, large, again = (found[name] for name in ("small", "large", "again"))
    return [
        Figure(f"{label}: peak MB", large["peak_mb"], small["peak_mb"], LIMIT_MB / large["peak_mb"], floor=1.0),
        Figure(f"{label}: peak MB, cached", again["peak_mb"], small["peak_mb"], LIMIT_MB / again["peak_mb"], floor=1.0),
        Figure(f"{label}: seconds, then cached", large["seconds"], again["seconds"], None),
        Figure(f"{label}: rows", large["rows"], small["rows"], None, equal=large["rows"] == again["rows"]),
    ]


def in_process(form: str, folder: Path) -> dict[str, float]:
    """What `read` says in a process of its own, whose cache lies beside the corpus."""
    command = [sys.executable, "-m", "benchmarks.reading", "--child", form, "--folder", str(folder)]
    environment = os.environ | {"AFP_CACHE": str(folder.parent / "cache"), "TMPDIR": str(folder.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"reading {form} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def read(form: str, folder: Path) -> dict[str, float]:
    """Load the corpus in `folder`, draw from it, and say what it took."""
    from afp_ray.config import DataConfig, SourceConfig
    from afp_ray.data import sources
    from afp_ray.data.mixing import draw_instructions, draw_pairs

    started = time.perf_counter()
    if form.startswith("bactrian_x"):
        source = SourceConfig(kind="bactrian_x", path=str(folder))
        config = DataConfig(sources=(source,), languages=("zh",), num_pairs=0, num_instructions=NUM_DRAWN)
        rows = sources.load_instructions(config)
        num_rows = len(rows)
        assert len(draw_instructions(rows, [], config, seed=0)) == NUM_DRAWN, "the draw is exact"
    else:
        source = SourceConfig(kind="tsv", path=str(folder / f"en-{{target}}.{form}"))
        config = DataConfig(sources=(source,), languages=("zh",), num_pairs=NUM_DRAWN, num_instructions=0)
        pairs = sources.load_pairs(config)
        num_rows = len(pairs)
        assert len(draw_pairs(pairs, num_pairs=NUM_DRAWN, seed=0)) == NUM_DRAWN, "the draw is exact"
    # Not ru_maxrss: a process that another one started counts the peak of its parent in.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
    return {"rows": num_rows, "peak_mb": peak, "seconds": time.perf_counter() - started}


def _bactrian_x(folder: Path, num_bytes: int, *, is_packed: bool = False) -> None:
    """One large file a language would take twice the bytes: the English one has them, the Chinese one is smaller."""
    ending = ".json.gz" if is_packed else ".json"
    for language, texts in _WORDS.items():
        words = random.Random(language)  # noqa: S311
        with _open(folder / f"{language}{ending}") as file:
            file.write(b"[")
            written, number = 0, 0
            while written < num_bytes:
                record = {
                    "instruction": f"{number} {_text(words, texts, 12)}",
                    "input": "",
                    "id": f"alpaca-{number}",
                    "output": _text(words, texts, 150 if language == "en" else 60),
                }
                data = (b",\n" if number else b"\n") + json.dumps(record, ensure_ascii=False, indent=1).encode()
                file.write(data)
                written += len(data)
                number += 1
            file.write(b"\n]\n")


def _tsv(folder: Path, num_bytes: int, *, is_packed: bool = False) -> None:
    with _open(folder / f"en-zh.tsv{'.gz' if is_packed else ''}") as file:
        for line in _tsv_lines(num_bytes):
            file.write(line)


def _tsv_lines(num_bytes: int) -> Iterator[bytes]:
    words = random.Random("tsv")  # noqa: S311
    written, number = 0, 0
    while written < num_bytes:
        sides = [f"{number} {_text(words, texts, 14)}" for texts in _WORDS.values()]
        line = "\t".join(sides).encode() + b"\r\n"
        yield line
        written += len(line)
        number += 1


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb")  # type: ignore[return-value]


def _text(words: random.Random, texts: list[str], count: int) -> str:
    return " ".join(words.choices(texts, k=count))


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "bactrian_x": _bactrian_x,
    "bactrian_x.gz": lambda folder, size: _bactrian_x(folder, size, is_packed=True),
    "tsv": _tsv,
    "tsv.gz": lambda folder, size: _tsv(folder, size, is_packed=True),
}
"""Forms of corpora, by what writes one of about so many bytes a file into a folder."""

if __name__ == "__main__":
    sys.exit(main())
