"""Data sets: what is read, how it is split and encoded, and each refusal by its text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from archrank.supernet.base import Base, load_base
from archrank.supernet.data import DataError, order, prepare, read_dataset
from archrank.supernet.data.texts import language_tokens
from archrank.supernet.tasks import IGNORED


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def words(special: bool = True) -> Any:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>", *"abcdefghij"]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="</s>",
    )


def base_for(task: str, labels: dict[str, int] | None = None) -> Base:
    model = SimpleNamespace(config=SimpleNamespace(label2id=labels or {}, num_channels=1, image_size=8))
    return Base(model, None if task == "image-classification" else words(), task, (), "x", "", embedded=False)  # type: ignore[arg-type]


def csv(folder: Path, split: str, rows: list[tuple[object, ...]], head: str = "sentence,label") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.csv").write_text("\n".join([head, *(",".join(map(str, r)) for r in rows)]) + "\n")


def test_the_embedded_digits_are_split_once_for_both_turns() -> None:
    turned, upright = read_dataset(None), read_dataset("digits")
    assert {s: len(v["label"]) for s, v in turned.splits.items()} == {"train": 1000, "validation": 300, "test": 497}
    assert np.array_equal(turned.splits["test"]["image"][0, 0], np.rot90(upright.splits["test"]["image"][0, 0]))
    assert turned.fingerprint != upright.fingerprint
    base = load_base(None, label_names=turned.label_names)
    data = prepare(turned, base)
    batch = data.batch("train", [3, 5])
    assert batch["pixel_values"].shape == (2, 1, 8, 8)
    assert batch["pixel_values"].abs().max() <= 1


def test_a_csv_folder(tmp_path: Path) -> None:
    csv(tmp_path / "d", "train", [("a b", "yes"), ("c", "no"), ("NA", "no")])
    csv(tmp_path / "d", "dev", [("a", "no")])
    csv(tmp_path / "d", "test", [("b", "yes")])
    raw = read_dataset(str(tmp_path / "d"))
    assert (raw.task, raw.label_names) == ("text-classification", ("no", "yes"))
    data = prepare(raw, base_for(raw.task))
    batch = data.batch("train", [0, 1, 2])
    assert batch["labels"].tolist() == [1, 0, 0]
    assert batch["input_ids"].tolist() == [[6, 7], [8, 0], [1, 0]], "NA is a word like any other"
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0], [1, 0]]
    assert [data.size(s) for s in ("train", "validation", "test")] == [3, 1, 1]


def test_a_base_that_knows_the_names_keeps_its_order(tmp_path: Path) -> None:
    csv(tmp_path / "d", "train", [("a", "yes"), ("b", "no")])
    csv(tmp_path / "d", "validation", [("a", "no")])
    raw = read_dataset(str(tmp_path / "d"))
    data = prepare(raw, base_for(raw.task, {"yes": 0, "no": 1}))
    assert data.batch("train", [0, 1])["labels"].tolist() == [0, 1]


def test_tsv_keeps_quotes_and_pairs_keep_their_types(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('sentence1\tsentence2\tlabel\n"a ""b"""\tc\t0\nd\te\t1\n')
    (tmp_path / "validation.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\t1\n")
    raw = read_dataset(str(tmp_path))
    assert raw.roles.text_pair == "sentence2"
    assert raw.splits["train"]["sentence1"][0] == 'a "b"'
    assert set(prepare(raw, base_for(raw.task)).batch("train", [0])) >= {"input_ids", "attention_mask", "labels"}


def test_rows_without_a_validation_file_are_split_by_their_content(tmp_path: Path) -> None:
    rows = [(f"a {i}", i % 2) for i in range(200)]
    csv(tmp_path / "d", "train", rows)
    csv(tmp_path / "e", "train", rows[::-1])
    held = [set(read_dataset(str(tmp_path / n)).splits["validation"]["sentence"]) for n in "de"]
    assert held[0] == held[1]
    assert 15 <= len(held[0]) <= 45
    raw = read_dataset(str(tmp_path / "d"))
    assert not held[0] & set(raw.splits["train"]["sentence"])


def test_the_test_rows_are_not_read_before_they_are_asked_for(tmp_path: Path) -> None:
    csv(tmp_path / "d", "train", [("a", "x"), ("b", "y")])
    csv(tmp_path / "d", "validation", [("a", "x")])
    csv(tmp_path / "d", "test", [(7, "x")])
    raw = read_dataset(str(tmp_path / "d"))
    data = prepare(raw, base_for(raw.task))
    assert data.size("test") == 1
    with pytest.raises(DataError, match=r"the test rows hold int where a text is meant: 7"):
        data.batch("test", [0])


def test_withheld_test_labels_make_no_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GLUE's test rows say −1, which as an index would be the last class."""
    import datasets

    from archrank.supernet.data import source

    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )

    def split(*labels: int) -> Any:
        return datasets.Dataset.from_dict({"sentence": ["a"] * len(labels), "label": list(labels)}, features=features)

    found = {"train": split(0, 1), "validation": split(1, 0), "test": split(-1, -1)}
    monkeypatch.setattr(source, "_hub", lambda name: dict(found))
    raw = read_dataset("hub/glue")
    data = prepare(raw, base_for(raw.task))
    assert (raw.label_names, data.size("test")) == (("neg", "pos"), 0)
    assert data.batch("validation", [0, 1])["labels"].tolist() == [1, 0]
    found["test"] = split(-1, 1)
    with pytest.raises(DataError, match="the label column 'label' holds empty cells in the test rows"):
        read_dataset("hub/glue")


def test_a_class_that_the_hash_would_take_from_training_stays(tmp_path: Path) -> None:
    rows = [(f"a {i}", f"rare{i}" if i < 30 else "often") for i in range(90)]
    csv(tmp_path / "d", "train", rows)
    raw = read_dataset(str(tmp_path / "d"))
    assert len(raw.label_names) == 31
    assert set(raw.splits["validation"]["label"]) == {"often"}
    assert len(set(raw.splits["train"]["label"])) == 31


def test_the_split_reads_dates_and_bytes(tmp_path: Path) -> None:
    import datetime

    import pyarrow
    from pyarrow import parquet

    n = 40
    table = {"text": [f"a{i}" for i in range(n)], "label": [i % 2 for i in range(n)], "raw": [b"x"] * n}
    table["day"] = [datetime.datetime(2024, 1, 1)] * n
    parquet.write_table(pyarrow.table(table), tmp_path / "p.parquet")
    raw = read_dataset(str(tmp_path / "p.parquet"))
    assert len(raw.splits["train"]) + len(raw.splits["validation"]) == n


@pytest.mark.parametrize(
    ("head", "columns", "roles"),
    [
        ("Text,Label", {}, {"text": "Text", "label": "Label"}),
        ("review,label", {"text": "review"}, {"text": "review", "label": "label"}),
        ("text,stars", {"label": "stars"}, {"text": "text", "label": "stars"}),
        ("prompt,label", {}, {"text": "prompt", "label": "label"}),
    ],
)
def test_roles_by_name_and_by_word(tmp_path: Path, head: str, columns: dict[str, str], roles: dict[str, str]) -> None:
    for split in ("train", "validation"):
        csv(tmp_path / "d", split, [("a", 0), ("b", 1)], head)
    raw = read_dataset(str(tmp_path / "d"), None, columns)
    assert {r: c for r, c in vars(raw.roles).items() if c} == roles
    assert raw.task == "text-classification"


def jsonl(file: Path, rows: list[dict[str, object]]) -> None:
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_the_loss_of_a_prompt_falls_on_its_completion(tmp_path: Path) -> None:
    rows = [{"prompt": "a b", "completion": "c d"}, {"prompt": "a", "completion": "e"}]
    jsonl(tmp_path / "train.jsonl", rows)
    jsonl(tmp_path / "validation.jsonl", rows[:1])
    raw = read_dataset(str(tmp_path))
    data = prepare(raw, base_for("causal-lm"))
    batch = data.batch("train", [0, 1])
    assert batch["input_ids"].tolist() == [[6, 7, 8, 9, 5], [6, 10, 5, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 8, 9, 5], [IGNORED, 10, 5, IGNORED, IGNORED]]
    [long, _] = language_tokens(raw, "train", words(), 4)
    assert long.ids == [7, 8, 9, 5], "the beginning of the prompt goes first"


def test_a_chat_learns_what_the_assistant_says(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    jsonl(tmp_path / "train.jsonl", [{"messages": talk}])
    jsonl(tmp_path / "validation.jsonl", [{"messages": talk}])
    raw = read_dataset(str(tmp_path))
    tok = words()
    with pytest.raises(DataError, match=r"the base's tokenizer has no chat template; use prompt and completion"):
        language_tokens(raw, "train", tok, 99)
    tok.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}i {{ m.content }} {% else %}j {{ m.content }} "
        "</s> {% endif %}{% endfor %}{% if add_generation_prompt %}j{% endif %}"
    )
    [row] = language_tokens(raw, "train", tok, 99)
    assert tok.convert_ids_to_tokens(row.ids) == ["i", "a", "j", "b", "</s>", "i", "c", "j", "d", "</s>"]
    assert row.labels == [IGNORED, IGNORED, IGNORED, 7, 5, IGNORED, IGNORED, IGNORED, 9, 5]


def test_plain_text_is_learnt_whole(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [{"text": "a b"}])
    jsonl(tmp_path / "validation.jsonl", [{"text": "a"}])
    raw = read_dataset(str(tmp_path))
    assert raw.task == "causal-lm"
    assert prepare(raw, base_for("causal-lm")).batch("train", [0])["labels"].tolist() == [[6, 7, 5]]


def test_pictures_in_class_folders(tmp_path: Path) -> None:
    from PIL import Image

    for split, n in (("train", 3), ("validation", 1)):
        for label, shade in (("dark", 10), ("light", 240)):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(n):
                Image.new("L", (16, 16), shade + i).save(tmp_path / split / label / f"{i}.png")
    raw = read_dataset(str(tmp_path))
    assert (raw.task, raw.label_names) == ("image-classification", ("dark", "light"))
    batch = prepare(raw, base_for(raw.task)).batch("train", range(6))
    assert batch["pixel_values"].shape == (6, 1, 8, 8)
    assert torch.equal(batch["labels"], (batch["pixel_values"].mean((1, 2, 3)) > 0).long())


def test_the_order_is_a_permutation_each_epoch_and_needs_no_history() -> None:
    stream = np.concatenate([order(1, step, 4, 10) for step in range(5)])
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert list(stream[:10]) != list(stream[10:])
    assert list(order(1, 3, 4, 10)) == list(stream[12:16])
    assert len(order(0, 0, 8, 3)) == 8


BAD: list[tuple[str, str, dict[str, str], str]] = [
    ("sentence,label\na,x\n", "sentence,label\na,z\n", {}, (
        "label 'z' stands in the validation rows "
        "only; no training row shows it"
    )),
    ("sentence,lable\na,x\n", "sentence,lable\na,x\n", {"text": "sentence", "label": "label"}, (
        r"no column 'label'; there are: sentence, "
        r"lable; did you mean lable\?"
    )),
    ("sentence,label\na,x\n", "sentence\na\n", {}, "the validation rows have no column 'label'; there are: sentence"),
    ("x1,x2,label\na,b,0\n", "x1,x2,label\na,b,0\n", {}, (
        "no text or picture column among x1, x2, label; "
        "name it: --columns text=COLUMN"
    )),
    ("sentence,label\n", "sentence,label\na,x\n", {}, "the train split is empty"),
    ("sentence,label\na,0\nb,1\n", "sentence,label\na,x\n", {}, "the label column 'label' mixes int and str; use one"),
    ("sentence,label\na,0\nb,\n", "sentence,label\na,0\n", {}, "'label' holds empty cells in the train rows"),
    ("sentence,label\na,x\nb,x\n", "sentence,label\na,x\n", {}, "every training row has the label x; classes are two"),
    ("prompt\na\n", "prompt\na\n", {}, "a prompt needs a completion column and the other way round; there are: prompt"),
    ("sentence,label\na,0.5\n", "sentence,label\na,0.5\n", {}, "holds fractions; classes are words or whole numbers"),
    ("sentence,label\na,x\n", "sentence,label\na,x\n", {"txt": "sentence"}, (
        r"no role 'txt'; did you mean "
        r"text\?; roles: text, text_pair"
    )),
]  # fmt: skip


@pytest.mark.parametrize(("train", "validation", "columns", "message"), BAD)
def test_bad_tables(tmp_path: Path, train: str, validation: str, columns: dict[str, str], message: str) -> None:
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "validation.csv").write_text(validation)
    with pytest.raises(DataError, match=message):
        read_dataset(str(tmp_path), None, columns)


def test_a_label_that_only_the_test_rows_have_is_told_before_the_search(tmp_path: Path) -> None:
    csv(tmp_path / "d", "train", [("a", "x"), ("b", "y")])
    csv(tmp_path / "d", "validation", [("a", "x")])
    csv(tmp_path / "d", "test", [("a", "z")])
    with pytest.raises(
        DataError,
        match=r"label 'z' stands in the test rows only; no training row shows it \(training labels: x, y\)",
    ):
        read_dataset(str(tmp_path / "d"))


TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "completion": "b"}, {"prompt": "c"}], "row 2 of train has no 'completion'"),
        ([{"prompt": "a", "completion": "b"}, {"completion": "c"}], "row 2 of train has no 'prompt'"),
        ([{"text": "a"}, {"text": None}], "row 2 of train has no 'text'"),
        ([{"messages": TALK}, {"messages": None}], "row 2 of train has no 'messages'"),
        ([{"messages": TALK}, {"messages": TALK[:1]}], "row 2 of train has nothing to predict: no assistant turn"),
        ([{"text": "a", "label": 0}, {"text": "b", "label": "x"}], "'label' holds lists or mixed kinds"),
        ([{"text": "a", "label": [0]}], "'label' holds lists or mixed kinds"),
        ([{"text": "a", "label": 0}, {"text": "b", "label": None}], "'label' holds empty cells in the train rows"),
        ([{"instruction": "a", "output": "b"}], "no text or picture column among instruction, output; name it"),
    ],
)
def test_bad_json_lines(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    jsonl(tmp_path / "train.jsonl", rows)
    jsonl(tmp_path / "validation.jsonl", rows[:1])
    base = base_for("causal-lm")
    base.processor.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    with pytest.raises(DataError, match=message):
        prepare(read_dataset(str(tmp_path)), base)


def test_pictures_in_memory_of_another_size_are_told(tmp_path: Path) -> None:
    raw = read_dataset("digits")
    for channels, side in ((3, 8), (1, 16)):
        config = transformers.ViTConfig(
            image_size=side, patch_size=4, num_channels=channels, hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=16,
        )  # fmt: skip
        folder = tmp_path / f"{channels}"
        transformers.ViTForImageClassification(config).save_pretrained(folder)
        base = load_base(str(folder), raw.task, label_names=raw.label_names)
        wanted = (
            f"digits pictures: are 1x8x8 (channels, height, width), and the base reads {channels}x{side}x{side}; give"
        )
        with pytest.raises(DataError, match=re.escape(wanted)):
            prepare(raw, base)


def test_bad_pictures(tmp_path: Path) -> None:
    from PIL import Image

    for split, classes in (("train", "ab"), ("validation", "abc")):
        for label in classes:
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / split / label / "0.png")
    with pytest.raises(DataError, match="label 'c' stands in the validation rows only; no training row shows it"):
        read_dataset(str(tmp_path))
    (tmp_path / "validation" / "c" / "0.png").unlink()
    (tmp_path / "train" / "a" / "0.png").write_text("no picture")
    raw = read_dataset(str(tmp_path))
    with pytest.raises(DataError, match=r"train pictures: cannot identify image file .*0.png"):
        prepare(raw, base_for(raw.task))


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data ./nowhere.csv: no such file or folder"):
        read_dataset("./nowhere.csv")
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(DataError, match=r"neither train.csv, .* nor a folder of pictures a class; it holds notes.doc"):
        read_dataset(str(tmp_path))
    with pytest.raises(DataError, match=r".doc cannot be read; use .csv, .tsv, .json, .jsonl, .parquet"):
        read_dataset(str(tmp_path / "notes.doc"))
    (tmp_path / "train.jsonl").write_text("{broken\n")
    with pytest.raises(DataError, match=r"cannot be read as json"):
        read_dataset(str(tmp_path))
    with pytest.raises(DataError, match=r"these are pictures; use image-classification"):
        read_dataset("digits", "causal-lm")


def test_digit_sums_are_three_digits_of_their_own_split() -> None:
    raw, digits = read_dataset("digit-sums"), read_dataset("digits")
    assert {s: v["image"].shape for s, v in raw.splits.items()} == {
        "train": (2000, 3, 8, 8), "validation": (500, 3, 8, 8), "test": (1000, 3, 8, 8),
    }  # fmt: skip
    assert raw.label_names == tuple(map(str, range(20)))
    for split, rows in raw.splits.items():
        label_of = {
            image.tobytes(): int(label)
            for image, label in zip(digits.splits[split]["image"], digits.splits[split]["label"], strict=True)
        }
        sums = [sum(label_of[channel[None].tobytes()] for channel in image) for image in rows["image"]]
        assert sums == rows["label"].tolist()
