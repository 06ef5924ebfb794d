"""The pretrained model that a rank space adapts: loaded by name or folder, frozen, its safetensors hashed.

Weights come from safetensors only (a pickle runs code when it is read) and no code of a repository is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from archrank.grammar import EncoderLayer
from archrank.supernet import tasks
from archrank.supernet.encoders import encoder_layers
from archrank.supernet.modules import target_modules
from archrank.supernet.quiet import quiet_transformers

__all__ = ["EMBEDDED", "Base", "BaseModelError", "check_base", "check_layers", "load_base", "module_shapes"]

EMBEDDED = Path(__file__).parent / "bases" / "digits_vit"
"""The base of the default run: a tiny ViT for 8 × 8 digits, made by benchmarks/make_digits_base.py."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class BaseModelError(ValueError):
    """A base that cannot be loaded, or not for this task."""


@dataclass(frozen=True)
class Base:
    """A frozen model and what goes with it.

    new_head: names of the modules whose parameters the checkpoint did not hold (initialised from the seed, to be
    trained once); name_or_path: absolute for folders, so that an adapter finds its base from anywhere; fingerprint:
    sha256 over the safetensors files.
    """

    model: nn.Module
    processor: Any = field(compare=False)
    task: str
    new_head: tuple[str, ...]
    name_or_path: str
    fingerprint: str
    embedded: bool

    @property
    def settings(self) -> Any:
        """The model's transformers configuration."""
        return self.model.config


def load_base(
    name_or_path: str | None,
    task: str | None = None,
    *,
    label_names: Sequence[str] = (),
    compute_dtype: str = "fp32",
    device: str = "cpu",
    seed: int = 0,
) -> Base:
    """Loads a base with `AutoModelFor….from_pretrained`; None is the embedded one.

    label_names: of the data; a head for another number of classes, or none, is replaced by a new one; a head that
    knows the same names keeps its own order of them. BaseModelError says what was given and what to do.
    """
    import transformers

    path = Path(name_or_path).resolve() if name_or_path and Path(name_or_path).exists() else None
    place = str(EMBEDDED if name_or_path is None else path or name_or_path)
    config = _config(place, name_or_path)
    task = task or _task_of(config, place)
    kind = tasks.load(task)
    cls = getattr(transformers, kind.auto_class)
    if type(config) not in cls._model_mapping:
        raise BaseModelError(
            f"--base {place}: a {config.model_type} model cannot do {task}; choose another base or --task"
        )
    wanted: dict[str, Any] = {}
    if not kind.per_token and label_names:
        names = _head_order(config, label_names)
        wanted = {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
            "ignore_mismatched_sizes": True,
        }
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model, info = cls.from_pretrained(
                place, dtype=DTYPES[compute_dtype], use_safetensors=True, output_loading_info=True, **wanted
            )
        except OSError as error:
            raise _no_weights(place, error) from None
        except ImportError as error:
            raise _missing_library(place, config, error) from None
        except (SafetensorError, RuntimeError) as error:
            told = str(error).strip().splitlines()[0]
            raise BaseModelError(
                f"--base {place}: its safetensors cannot be loaded ({told}); fetch the folder again"
            ) from None
    _check_whole(place, model, info)
    processor = _processor(place, task)
    if task == "text-classification" and config.get_text_config().pad_token_id is None:
        _check_padding(place, config, processor)
    model.requires_grad_(False)
    model.eval().to(device)
    return Base(model, processor, task, _new_modules(info), place, _fingerprint(place), name_or_path is None)


def check_base(name_or_path: str) -> None:
    """BaseModelError where there is no such model: asked before anything slower, so that a typing error is told
    first.
    """
    path = Path(name_or_path)
    _config(str(path.resolve() if path.exists() else name_or_path), name_or_path)


def module_shapes(name_or_path: str | None, pattern: str) -> dict[str, tuple[int, int]]:
    """{module: (out, in)} that `pattern` selects in a base, from its configuration alone: no weight is read."""
    return target_modules(_bare(name_or_path), pattern)


def layer_shapes(name_or_path: str | None) -> dict[str, EncoderLayer]:
    """The layers of a BERT- or ViT-like base by name, from its configuration alone; EncoderError where it is none."""
    return encoder_layers(_bare(name_or_path))


def check_layers(name_or_path: str | None) -> None:
    """EncoderError, before any weight is read, for a base whose layers do not show heads and FFN, whatever its head."""
    encoder_layers(_bare(name_or_path, any_head=True))


def _bare(name_or_path: str | None, *, any_head: bool = False) -> nn.Module:
    """The model of a base without weights; any_head: the encoder without the head of its task."""
    import transformers

    path = Path(name_or_path).resolve() if name_or_path and Path(name_or_path).exists() else None
    place = str(EMBEDDED if name_or_path is None else path or name_or_path)
    config = _config(place, name_or_path)
    cls = getattr(transformers, "AutoModel" if any_head else tasks.load(_task_of(config, place)).auto_class)
    with quiet_transformers(), torch.device("meta"):
        model: nn.Module = cls.from_config(config)
    return model


def _config(place: str, given: str | None) -> Any:
    import transformers

    if not Path(place).exists() and (place.startswith((".", "/", "~")) or place.count("/") > 1):
        raise BaseModelError(
            f"--base {given}: no such folder; give a model folder (config.json and safetensors) or a hub name"
        )
    if Path(place).is_file():
        raise BaseModelError(f"--base {given}: is a file; give the folder that holds config.json and the safetensors")
    if (adapter := Path(place) / "adapter_config.json").is_file():
        raise BaseModelError(
            f"--base {given}: holds an adapter ({adapter.name}), not a base; give the model that it belongs to, or "
            f"make the adapter itself smaller: search shrink {given} --out FOLDER"
        )
    if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
        raise BaseModelError(
            f"--base {given}: has no config.json; give a model folder (config.json and safetensors) or a hub name"
        )
    with quiet_transformers():
        try:
            return transformers.AutoConfig.from_pretrained(place)
        except OSError:
            what = (
                "its config.json cannot be read"
                if Path(place).exists()
                else "is no folder here, and no hub model of that name could be reached"
            )
            raise BaseModelError(
                f"--base {given}: {what}; give a model folder (config.json and safetensors) or a hub name"
            ) from None
        except ValueError as error:
            first = str(error).strip().splitlines()[0]
            if "trust_remote_code" in str(error):
                first = "it needs code from its own repository, which archrank does not run"
            raise BaseModelError(f"--base {given}: {first}") from None


def _task_of(config: Any, place: str) -> str:
    names = " ".join(config.architectures or [])
    for ending, task in (
        ("ForImageClassification", "image-classification"),
        ("ForSequenceClassification", "text-classification"),
        ("ForCausalLM", "causal-lm"),
        ("LMHeadModel", "causal-lm"),
    ):
        if ending in names:
            return task
    raise BaseModelError(
        f"--base {place}: its config.json names no head "
        f"({names or 'no architectures'}); say --task {' or '.join(tasks.TASKS)}"
    )


def _no_weights(place: str, error: OSError) -> BaseModelError:
    folder = Path(place)
    pickles = sorted(p.name for p in folder.glob("*.bin")) if folder.is_dir() else []
    if pickles or "safetensors" in str(error):
        seen = (
            f"only {', '.join(pickles)}, a pickle, which can run code when it is read" if pickles else "no safetensors"
        )
        return BaseModelError(
            f"--base {place}: has {seen}; convert it once where you trust it: "
            "AutoModel.from_pretrained(…).save_pretrained(FOLDER) writes safetensors"
        )
    return BaseModelError(f"--base {place}: {str(error).strip().splitlines()[0]}")


def _missing_library(place: str, config: Any, error: ImportError) -> BaseModelError:
    """For weights that transformers reads with another package, quantised ones above all."""
    stored = getattr(config, "quantization_config", None) or {}
    method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
    what = f"is quantised ({getattr(method, 'value', method)})" if method else "cannot be loaded"
    told = str(error).strip().splitlines()[0].rstrip(".")
    return BaseModelError(f"--base {place}: {what}: {told}; install that package, or give the unquantised base")


def _head_order(config: Any, label_names: Sequence[str]) -> list[str]:
    """The names in the order of a checkpoint's own head where it knows exactly these; else as the data has them."""
    known = {int(i): str(name) for i, name in (config.id2label or {}).items()}
    ordered = [known[i] for i in sorted(known)]
    same = sorted(known) == list(range(len(label_names))) and sorted(ordered) == sorted(label_names)
    return ordered if same else list(label_names)


def _check_padding(place: str, config: Any, tokenizer: Any) -> None:
    """BaseModelError for a decoder whose configuration names no padding: it classifies at the last token that is not
    padding. Setting it here would not help whoever loads the adapter over the same base.
    """
    import transformers

    if type(config) in transformers.AutoModelForCausalLM._model_mapping:
        raise BaseModelError(
            f"--base {place}: its config.json names no pad_token_id, without which a {config.model_type} model cannot "
            f'classify a batch; add the tokenizer\'s to a copy of the folder: "pad_token_id": {tokenizer.pad_token_id}'
        )


def _absent(info: Any) -> list[str]:
    """The parameters which the checkpoint did not have, or had in another shape."""
    return sorted([str(k) for k in info["missing_keys"]] + [str(k[0]) for k in info["mismatched_keys"]])


def _new_modules(info: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key.rpartition(".")[0] for key in _absent(info)))


def _check_whole(place: str, model: Any, info: Any) -> None:
    """BaseModelError where the encoder itself is incomplete: transformers would draw its layers at random and go on."""
    prefix = f"{model.base_model_prefix}."
    holes = [
        key
        for key in _absent(info)
        if key.startswith(prefix) and any(part.isdigit() or "embed" in part for part in key.split("."))
    ]
    if holes:
        raise BaseModelError(
            f"--base {place}: its safetensors lack {len(holes)} weights that are no part of a head, or have them in "
            f"another shape, such as {holes[0]}; config.json and weights do not belong together, or a file is missing"
        )


def _processor(place: str, task: str) -> Any:
    """The tokenizer or image processor; None where an image model has none (then the configuration's size is all that
    is known).
    """
    import transformers

    pictures = task == "image-classification"
    if pictures and Path(place).is_dir() and not any((Path(place) / name).is_file() for name in PROCESSOR_FILES):
        return None
    with quiet_transformers():
        try:
            if pictures:
                return transformers.AutoImageProcessor.from_pretrained(place)
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError, ImportError) as error:
            if pictures and isinstance(error, OSError) and not Path(place).is_dir():
                return None
            first = str(error).strip().splitlines()[0]
            what = "image processor" if pictures else "tokenizer"
            raise BaseModelError(f"--base {place}: its {what} cannot be loaded: {first}") from None
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # transformers makes an empty tokenizer where a folder has none, and every word is then unknown
        raise BaseModelError(
            f"--base {place}: has no tokenizer files (tokenizer.json or a vocabulary); save the model's own tokenizer "
            "there: AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _fingerprint(place: str) -> str:
    """sha256 over a folder's safetensors in name order; of a hub model, of its cached files."""
    folder = Path(place)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(place, allow_patterns=["*.safetensors"], local_files_only=True))
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
