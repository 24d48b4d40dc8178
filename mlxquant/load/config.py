"""config.json: read, found plausible, and searched for code that it would have somebody run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..files.json_file import read_json_object
from ..files.quote import show
from .folder import Folder, refuse

__all__ = ["read_config", "refuse_code"]

#: key → (least, most, whether null and a list of such numbers are fine too). The most is a hundred
#: times what any published model has; a lie beyond it is caught before anything is built.
_LIMITS: dict[str, tuple[int, int, bool]] = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer"), (1, 4096, False)),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd"), (1, 1 << 20, False)),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head"), (1, 1 << 16, True)),
    **dict.fromkeys(("num_key_value_heads", "n_kv_heads"), (1, 1 << 16, True)),
    "head_dim": (0, 1 << 16, True),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size"), (0, 1 << 24, True)),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), (0, 1 << 16, True)),
    "vocab_size": (1, 1 << 26, False),
}

#: entries that hold a language model's own settings inside those of a larger model
_NESTED = ("text_config", "llm_config", "language_config")

_MODEL_TYPE = re.compile(r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*")


def read_config(folder: Folder) -> dict[str, Any]:
    """The folder's config.json, with plausible numbers.

    Raises:
        FileFormatError: it is not JSON.
        ModelError: it is missing, names no model type, or claims sizes that no model has.
    """
    if "config.json" not in folder.names:
        gguf = [name for name in folder.names if name.lower().endswith(".gguf")]
        reason = f"GGUF files ({gguf[0]}) are not read" if gguf else "this is no model folder"
        raise refuse(folder.path, "config.json", f"missing: {reason}")
    path = folder.member("config.json")
    config = read_json_object(path)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        reason = f'{show(model_type)}: the name of an architecture expected, like "llama"'
        raise refuse(path, "model_type", reason)
    _check_numbers(path, "", config)
    for key in _NESTED:
        nested = config.get(key)
        if isinstance(nested, dict):
            _check_numbers(path, f"{key}.", nested)
        elif nested is not None:
            raise refuse(path, key, f"{show(nested)}: an object expected")
    return config


def _check_numbers(path: Path, prefix: str, config: dict[str, Any]) -> None:
    """Refuse sizes that no model has."""
    for key, (least, most, loose) in _LIMITS.items():
        if key not in config:
            continue
        value = config[key]
        if loose and value is None:
            continue
        values = value if loose and isinstance(value, list) and len(value) <= 4096 else [value]
        for number in values:
            if loose and number is None:
                continue
            if type(number) is not int or not least <= number <= most:
                reason = f"implausible model: {show(number)}, an integer from {least} to {most}"
                raise refuse(path, prefix + key, f"{reason} expected")


def refuse_code(
    folder: Folder, config: dict[str, Any], tokenizer_config: dict[str, Any], *, trusted: bool
) -> None:
    """Refuse a folder that wants its own Python code run, unless it is trusted.

    Raises:
        ModelError: `auto_map` or `model_file` names code and `trusted` is false; or they are
            malformed, or lead outside the model folder.
    """
    sources = (("config.json", config), ("tokenizer_config.json", tokenizer_config))
    for name, settings in sources:
        path = folder.path / name
        for key, code in (
            ("auto_map", _auto_map_files(path, settings.get("auto_map"))),
            ("model_file", _model_file(folder, path, settings.get("model_file"))),
        ):
            if code and not trusted:
                reason = f"the model wants to run its own code ({', '.join(code)})"
                hint = "read it, and give --trust-remote-code if you trust it"
                raise refuse(path, key, f"{reason}; {hint}")


def _auto_map_files(path: Path, auto_map: Any) -> list[str]:
    """The Python files that an `auto_map` names: {"AutoModel": "repository--module.Class"}."""
    if auto_map is None:
        return []
    values = list(auto_map.values()) if isinstance(auto_map, dict) else [auto_map]
    # A tokenizer's entry is a pair: slow and fast class, either may be null.
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    flat = [item for item in flat if item is not None]
    if not all(isinstance(item, str) for item in flat):
        raise refuse(path, "auto_map", f"{show(auto_map)}: class names expected")
    return sorted({item.rsplit(".", 1)[0].replace(".", "/") + ".py" for item in flat})


def _model_file(folder: Folder, path: Path, model_file: Any) -> list[str]:
    """The Python file that mlx-lm's `model_file` names."""
    if model_file is None:
        return []
    if not isinstance(model_file, str):
        raise refuse(path, "model_file", f"{show(model_file)}: a file name expected")
    folder.member(model_file, path, "model_file")
    return [model_file]
