"""A byte-level tokenizer trained on the fly, with or without special tokens of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

MakeTokenizer = Callable[..., Any]


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    def make(texts: Sequence[str], *, template: str = "$A", vocab_size: int = 400, **options: Any) -> Any:
        """`template` says which special tokens are added: "<s> $A" as XGLM does, "$A" as BLOOM."""
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        inner.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)]),
            ]
        )
        return PreTrainedTokenizerFast(tokenizer_object=inner, **{"eos_token": "</s>", "pad_token": "<pad>"} | options)

    return make
