"""Settings that are no settings, or that the weights contradict, and what each must get."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hostile.building import (
    AFFINE,
    LAYER,
    Builder,
    Tensors,
    config,
    packed,
    packed_weights,
    plain,
    raw,
    replaced,
    tensor,
    weights,
)

DEEP = b"[" * 10**5 + b"]" * 10**5


def _quantization(quantization: Any, **config: Any) -> Builder:
    return lambda folder: packed(folder, quantization, **config)


def _sparse(name: str, size: int) -> Builder:
    def build(folder: Path) -> None:
        plain(folder)
        (folder / name).write_bytes(b" ")
        os.truncate(folder / name, size)

    return build


def _packed_with(tensors: Tensors, quantization: Any = AFFINE) -> Builder:
    return lambda folder: packed(folder, quantization, packed_weights() | tensors)


def _packed_without(name: str) -> Builder:
    tensors = packed_weights()
    del tensors[name]
    return lambda folder: packed(folder, AFFINE, tensors)


def _lookalike(folder: Path) -> None:
    """4 bits in groups of 64, said to be 8 bits in groups of 32."""
    tensors = weights()
    tensors["model.embed_tokens.weight"] = tensor("U32", 32, 8)
    tensors["model.embed_tokens.scales"] = tensor("F16", 32, 1)
    tensors["model.embed_tokens.biases"] = tensor("F16", 32, 1)
    packed(folder, {"group_size": 32, "bits": 8}, tensors)


#: name → (builder, what the error must contain)
SETTINGS: dict[str, tuple[Builder, tuple[str, ...]]] = {
    # Settings that are no settings.
    "config is a list": (replaced("config.json", []), ("config.json", "an object", "a list")),
    "config is cut short": (replaced("config.json", b'{"model_type": '), ("config.json", "@15")),
    "config is empty": (replaced("config.json", b""), ("config.json", "an empty file")),
    "config is HTML": (replaced("config.json", b"<html>"), ("config.json", "an HTML page")),
    "config is UTF-16": (replaced("config.json", b"\xff\xfe{\0}\0"), ("config.json", "not UTF-8")),
    "config with a byte-order mark": (
        replaced("config.json", b"\xef\xbb\xbf{}"),
        ("byte-order mark",),
    ),
    "config with NaN": (replaced("config.json", b'{"rope_theta": NaN}'), ("NaN is not JSON",)),
    "config with a key twice": (
        replaced("config.json", b'{"model_type": "llama", "model_type": "gpt2"}'),
        ("'model_type'", "twice"),
    ),
    "config 10^5 deep": (replaced("config.json", b'{"a":' + DEEP + b"}"), ("deeper than 64",)),
    "config open 10^5 deep": (
        replaced("config.json", b'{"a":' + b"[" * 10**5),
        ("deeper than 64",),
    ),
    "config with 5000 digits": (replaced("config.json", b'{"a":%s}' % (b"9" * 5000)), ("digits",)),
    "config of 1 GB": (_sparse("config.json", 1 << 30), ("config.json", "1073741824", "at most")),
    "model_type missing": (replaced("config.json", {}), ("model_type", "null")),
    "model_type with a path": (config(model_type="../x"), ("model_type", "../x")),
    "text_config is text": (config(text_config="x"), ("text_config", "an object expected")),
    "tokenizer.json is a list": (replaced("tokenizer.json", []), ("tokenizer.json", "a list")),
    "tokenizer.json is cut short": (replaced("tokenizer.json", b'{"a": {}'), ("tokenizer.json",)),
    "tokenizer.json 10^5 deep": (
        replaced("tokenizer.json", b'{"a":' + DEEP + b"}"),
        ("tokenizer.json", "deeper than 64"),
    ),
    "tokenizer_config.json is a number": (replaced("tokenizer_config.json", 1), ("a number",)),
    "generation_config.json is broken": (
        replaced("generation_config.json", b"{"),
        ("generation_config.json", "@1", "invalid JSON"),
    ),
    "special_tokens_map.json is null": (
        replaced("special_tokens_map.json", None),
        ("special_tokens_map.json", "null"),
    ),
    # Implausible numbers.
    **{
        f"{key} {json.dumps(value)}": (
            config(**{key: value}),
            ("config.json", key, "implausible model", json.dumps(value)),
        )
        for key, value in (
            ("num_hidden_layers", 0),
            ("num_hidden_layers", 10**9),
            ("num_hidden_layers", "8"),
            ("num_hidden_layers", True),
            ("hidden_size", 0),
            ("hidden_size", -64),
            ("hidden_size", 64.0),
            ("hidden_size", None),
            ("num_attention_heads", 0),
            ("num_attention_heads", "2"),
            ("num_key_value_heads", 0),
            ("intermediate_size", 10**10),
            ("vocab_size", 0),
            ("vocab_size", 2**62),
        )
    },
    "hidden_size 0 inside text_config": (
        config(text_config={"hidden_size": 0}),
        ("text_config.hidden_size", "implausible model"),
    ),
    # Line 20.
    "bits that the columns contradict": (
        _quantization(AFFINE | {"bits": 8}),
        (LAYER, "conflict", "8 bits in groups of 32", "4 bits in groups of 32"),
    ),
    "a group size that the columns contradict": (
        _quantization(AFFINE | {"group_size": 128}),
        (LAYER, "conflict", "4 bits in groups of 128", "4 bits in groups of 32"),
    ),
    "an override that the columns contradict": (
        _quantization(AFFINE | {LAYER: AFFINE | {"bits": 6}}),
        (LAYER, "conflict", "6 bits in groups of 32", "4 bits in groups of 32"),
    ),
    "a mode that the scales contradict": (
        _quantization({"group_size": 32, "bits": 4, "mode": "mxfp4"}),
        (LAYER, "conflict", "mxfp4", "affine"),
    ),
    "bits and group size that only the width contradicts": (
        _lookalike,
        ("embed_tokens", "conflict", "8 bits in groups of 32", "4 bits in groups of 64", "64"),
    ),
    "columns of no format": (
        _packed_with({f"{LAYER}.weight": tensor("U32", 128, 9)}),
        (LAYER, "conflict", "9 packed columns", "nothing that MLX has"),
    ),
    "scales of another height": (
        _packed_with({f"{LAYER}.scales": tensor("BF16", 127, 2)}),
        (f"{LAYER}.weight", "[128, 8]", "[127, 2]"),
    ),
    "scales of another dtype": (
        _packed_with({f"{LAYER}.scales": tensor("F32", 128, 2)}),
        (f"{LAYER}.weight", "F32", "BF16"),
    ),
    "biases of another shape": (
        _packed_with({f"{LAYER}.biases": tensor("BF16", 128, 1)}),
        (f"{LAYER}.weight", "[128, 2]", "[128, 1]"),
    ),
    "biases missing": (
        _packed_without(f"{LAYER}.biases"),
        (f"{LAYER}.weight", "biases missing", "affine"),
    ),
    "biases beside U8 scales": (
        _packed_with({f"{LAYER}.scales": tensor("U8", 128, 2)}),
        (f"{LAYER}.weight", "biases beside U8 scales"),
    ),
    "packed weights of floats": (
        _packed_with({f"{LAYER}.weight": tensor("F32", 128, 8)}),
        (f"{LAYER}.weight", "F32 with scales"),
    ),
    "a global scale": (
        _packed_with({f"{LAYER}.global_scale": tensor("F32", 1)}),
        (f"{LAYER}.weight", "global_scale is not supported"),
    ),
    "quantization is a number and quantization_config is not": (
        _quantization(4, quantization_config=AFFINE),
        ("quantization", "conflict: 4", "quantization_config says", '"bits": 4'),
    ),
    "packed weights without quantization": (
        lambda folder: packed(folder, None),
        ("config.json: quantization", "missing", LAYER),
    ),
    "an override for a layer that is not there": (
        _quantization(AFFINE | {"model.layers.9.mlp.up_proj": AFFINE}),
        ("model.layers.9.mlp.up_proj", "conflict", '"bits": 4', "no such layer"),
    ),
    "an override for a layer that is not packed": (
        _quantization(AFFINE | {"model.embed_tokens": True}),
        ("model.embed_tokens", "conflict", "true", "BF16 [32, 64], not packed"),
    ),
    "a packed layer said not to be": (
        _quantization(AFFINE | {LAYER: False}),
        (LAYER, "conflict", "false", "packed"),
    ),
    "quantization and quantization_config differ": (
        _quantization(AFFINE, quantization_config=AFFINE | {"bits": 8}),
        ("quantization['bits']", "conflict: 4", "quantization_config says 8"),
    ),
    "quantization and quantization_config differ in a layer": (
        _quantization(AFFINE, quantization_config=AFFINE | {LAYER: False}),
        (LAYER, "conflict", "nothing", "false"),
    ),
    # Line 21.
    **{
        f"{key} {json.dumps(value)}": (
            _quantization(AFFINE | {key: value}),
            ("config.json: quantization", "bad quantization", key, json.dumps(value)),
        )
        for key, values in (
            ("bits", (0, 7, -4, "4", True, 4.0, None, 2**70, [4])),
            ("group_size", (0, 65, 16, "64", True, None)),
            ("mode", ("int4", None, 4, ["affine"])),
        )
        for value in values
    },
    "bits 7 in a layer": (
        _quantization(AFFINE | {LAYER: {"bits": 7}}),
        (f"quantization['{LAYER}']", "bad quantization", "bits 7"),
    ),
    "an unknown setting in a layer": (
        _quantization(AFFINE | {LAYER: {"nbits": 4}}),
        (f"quantization['{LAYER}']", "bad quantization", "'nbits'"),
    ),
    "a layer that is a number": (
        _quantization(AFFINE | {LAYER: 4}),
        (f"quantization['{LAYER}']", "bad quantization: 4"),
    ),
    "nvfp4 in groups of 32": (
        _quantization({"group_size": 32, "bits": 4, "mode": "nvfp4"}),
        ("bad quantization", "group_size 32", "nvfp4 has 16"),
    ),
    "mxfp8 of 4 bits": (
        _quantization({"group_size": 32, "bits": 4, "mode": "mxfp8"}),
        ("bad quantization", "bits 4", "mxfp8 has 8"),
    ),
    "quantization without bits": (_quantization({"group_size": 32}), ("bits is missing",)),
    "quantization is a number": (_quantization(4), ("bad quantization: 4",)),
    # Types that MLX does not have.
    "a dtype that MLX lacks": (
        lambda folder: packed(folder, None, weights() | {"x.weight": tensor("F8_E4M3FNUZ", 4)}),
        ("tensor 'x.weight'", "F8_E4M3FNUZ is not supported"),
    ),
    "half-byte floats": (
        lambda folder: packed(folder, None, weights() | {"x.weight": tensor("F4", 4)}),
        ("tensor 'x.weight'", "F4 is not supported"),
    ),
    "no tensors": (replaced("model.safetensors", raw({})), ("holds no tensors",)),
}
