"""Trains the base model that ships with the package from the embedded monolingual documents alone.

Run it from the repository root whenever the corpus changes: `python tools/make_embedded_model.py`. One thread and a
fixed seed; the manifest it writes ties the weights to the corpus, and a test checks the tie.
"""

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from afp_ray.data.embedded import LANGUAGES, PIVOT, corpus_fingerprint, documents

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
HELD_OUT = 0.02
"""Share of each language's documents that only measures the loss."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights, with the corpus and the version of torch."""

    vocabulary: int = 4096
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    intermediate_size: int = 256
    max_positions: int = 256
    batch_size: int = 16
    steps: int = 8000
    learning_rate: float = 4e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    sampling_power: float = 0.6
    """Languages are drawn in proportion to their tokens to this power: 1 is their share, 0 is uniform."""
    pivot_factor: float = 2.0
    """Multiplies the pivot's weight when languages are drawn."""
    several_share: float = 0.15
    """Share of rows that hold several documents."""
    seed: int = 0


def build_tokenizer(settings: Settings) -> Tokenizer:
    """A BPE tokenizer over words with byte fallback; every Han character is a word of its own."""
    learned = _tokenizer(models.BPE())
    num_fixed = 3 + 256
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary - num_fixed, max_token_length=16, show_progress=False, special_tokens=[]
    )
    # The same number of documents of each language, so that the low ones are not cut into letters.
    texts = (document.text for language in LANGUAGES for document in documents(language)[:2500])
    learned.train_from_iterator(texts, trainer)
    model = json.loads(learned.to_str())["model"]
    pieces = [PAD, BOS, EOS, *(f"<0x{value:02X}>" for value in range(256))]
    pieces += sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = _tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=False))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, BOS, EOS)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, pieces.index(BOS))]
    )
    return tokenizer


def _tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\u3400-\u9fff]|[\u3000-\u303f\uff00-\uffef]"), behavior="isolated"),
            pre_tokenizers.Split(Regex(r"[\u0e00-\u0e7f]+"), behavior="isolated"),  # Thai writes no word space
            pre_tokenizers.Split(Regex(r" ?[^\s\p{P}]+|\p{P}"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as the class that AutoTokenizer gives back."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


@dataclass
class Corpus:
    """One language's documents as token rows, each from the start mark to the end mark."""

    train: list[list[int]]
    held_out: list[list[int]]

    @property
    def tokens(self) -> int:
        """Training tokens."""
        return sum(map(len, self.train))


def tokenise(tokenizer: PreTrainedTokenizerFast) -> dict[str, Corpus]:
    """All documents by language; the last of them are held out."""
    corpora = {}
    for language in LANGUAGES:
        texts = [document.text for document in documents(language)]
        rows = [[*row, tokenizer.eos_token_id] for row in tokenizer(texts)["input_ids"]]
        num_training = round(len(rows) * (1 - HELD_OUT))
        corpora[language] = Corpus(rows[:num_training], rows[num_training:])
    return corpora


class Batches:
    """Draws batches of documents, languages mixed, of about one length each.

    Some rows hold several documents of one language, so that long contexts are no surprise.
    """

    def __init__(self, corpora: dict[str, Corpus], settings: Settings, newline: list[int]) -> None:
        self.corpora, self.settings, self.newline = corpora, settings, newline
        self.random = random.Random(settings.seed)  # noqa: S311 - nothing secret is drawn
        self.ready: list[Tensor] = []
        weights = [corpora[language].tokens ** settings.sampling_power for language in LANGUAGES]
        weights[LANGUAGES.index(PIVOT)] *= settings.pivot_factor
        self.weights = weights

    def draw(self) -> Tensor:
        """(B, T) token ids, padded on the right with id 0."""
        if not self.ready:
            size = self.settings.batch_size
            rows = sorted((self._row() for _ in range(16 * size)), key=len)
            chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
            self.random.shuffle(chunks)
            self.ready = [pad(chunk) for chunk in chunks]
        return self.ready.pop()

    def _row(self) -> list[int]:
        corpus = self.corpora[self.random.choices(LANGUAGES, self.weights)[0]]
        row = self.random.choice(corpus.train)
        if self.random.random() < self.settings.several_share:
            for _ in range(self.random.randint(1, 3)):
                row = [*row[:-1], *self.newline, *self.random.choice(corpus.train)[1:]]
        return row[: self.settings.max_positions]


def pad(rows: list[list[int]]) -> Tensor:
    """(B, T) token ids from rows of several lengths, padded on the right with id 0."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def lm_loss(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """() mean next-token cross-entropy in nats over the tokens that are no padding."""
    logits = model(input_ids=ids[:, :-1]).logits  # right padding under a causal mask needs no attention mask
    targets = ids[:, 1:].masked_fill(ids[:, 1:] == 0, -100)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-100)


def build_model(tokenizer: PreTrainedTokenizerFast, settings: Settings) -> LlamaForCausalLM:
    """A Llama with random weights and tied embeddings."""
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(model: LlamaForCausalLM, batches: Batches, settings: Settings) -> None:
    """Trains in place and prints the running loss."""
    decayed = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    started, running, tokens = time.monotonic(), 0.0, 0
    model.train()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        ids = batches.draw()
        loss = lm_loss(model, ids)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running, tokens = running + loss.item(), tokens + ids.numel()
        if (step + 1) % 500 == 0:
            seconds = time.monotonic() - started
            speed = tokens / seconds
            print(f"step {step + 1} loss {running / 500:.3f} {seconds:.0f} s {speed:.0f} tokens/s", flush=True)
            running = 0.0


@torch.no_grad()
def held_out_losses(model: LlamaForCausalLM, corpora: dict[str, Corpus]) -> dict[str, float]:
    """Mean next-token loss on the held-out documents, nats, by language."""
    model.eval()
    return {language: round(lm_loss(model, pad(corpus.held_out)).item(), 4) for language, corpus in corpora.items()}


def write(
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, manifest: Mapping[str, Any]
) -> None:
    """Model, tokenizer and manifest as an ordinary Hugging Face folder."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    paths = sorted(path for path in folder.iterdir() if path.name != "manifest.json")
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    stated = {"format": 1, "files": digests, "sha256": digests["model.safetensors"]}  # `files` as checkpoints state it
    text = json.dumps({**manifest, **stated}, indent=2, sort_keys=True)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Builds the tokenizer, trains, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("afp_ray/models/embedded"))
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    folder = arguments.pop("output")
    settings = Settings(**arguments)
    torch.set_num_threads(1)  # more threads change the order of sums, and with it the weights
    tokenizer = wrap_tokenizer(build_tokenizer(settings))
    corpora = tokenise(tokenizer)
    print({language: corpus.tokens for language, corpus in corpora.items()})
    model = build_model(tokenizer, settings)
    print(f"{sum(weight.numel() for weight in model.parameters())} parameters")
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    train(model, Batches(corpora, settings, newline), settings)
    losses = held_out_losses(model, corpora)
    print("held-out loss, nats:", losses)
    manifest = {
        "corpus_fingerprint": corpus_fingerprint(),
        "settings": asdict(settings),
        "losses": losses,
        "torch": torch.__version__,
        "licence": "Apache-2.0",
    }
    write(folder, model, tokenizer, manifest)


if __name__ == "__main__":
    main()
