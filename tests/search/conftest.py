"""A tiny encoder on disk and a small table for it: a base whose head is new, trained in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

WORDS = [a + b for a in "bdfgklmn" for b in ("a", "e", "i", "o")]


@pytest.fixture(scope="session")
def text_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder with random weights and a word tokenizer, saved without a head."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("base") / "bert"
    config = transformers.BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tok = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three words a row; the label says whether the first one begins with a letter before h."""
    import random

    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    for split, n in (("train", 64), ("validation", 32), ("test", 32)):
        rows = [rng.choices(WORDS, k=3) for _ in range(n)]
        lines = [f"{' '.join(row)},{int(row[0][0] < 'h')}" for row in rows]
        (folder / f"{split}.csv").write_text("\n".join(["sentence,label", *lines]) + "\n")
    return folder
