"""What the names of a GGUF file's tensors say; see roles.py for the words.

    token_embd.weight   blk.0.attn_q.weight   blk.0.ffn_down_exps.weight   output.weight

Names: https://github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py, TENSOR_NAMES.
"""

from __future__ import annotations

import re

__all__ = ["gguf_role"]

_STACKS = {"blk", "enc", "dec"}
_VISION = {"v", "a", "mm"}
_TOP = {
    "token_embd": "embedding",
    "position_embd": "embedding",
    "token_types": "embedding",
    "per_layer_token_embd": "embedding",
    "token_embd_norm": "norm",
    "output_norm": "norm",
    "rope_freqs": "other",
    "rope_factors_long": "other",
    "rope_factors_short": "other",
}
_ATTENTION = {
    "attn_q": "q",
    "attn_q_a": "q",
    "attn_q_b": "q",
    "attn_k": "k",
    "attn_k_b": "k",
    "attn_v": "v",
    "attn_v_b": "v",
    "attn_qkv": "qkv",
    "attn_kv_a_mqa": "qkv",
    "attn_kv_b": "qkv",
    "attn_output": "out",
    "attn_out": "out",
}
_FEED_FORWARD = re.compile(r"ffn_(gate_up|gate|up|down)(_exps|_shexp|_chexps)?")
_ROUTER = re.compile(r"ffn_gate_inp|exp_probs_b")
_SSM = re.compile(r"ssm_|time_mix_|shortconv|conv")


def gguf_role(name: str) -> str | None:
    """The role of a tensor with one of GGUF's names, one of roles.ROLES; None for other names."""
    path = name.split(".")
    top = path[0]
    if top in _VISION and len(path) > 2:
        return "vision"
    if top in _TOP:
        return _TOP[top]
    if top not in _STACKS or len(path) < 3:
        return None
    path = [part for part in path if part not in _STACKS and not part.isdigit()]
    leaf = path[0] if path else ""
    if "norm" in leaf or (len(path) > 1 and "norm" in path[1]):
        return "norm"
    if _ROUTER.match(leaf):
        return "router"
    if _SSM.match(leaf):
        return "ssm"
    if path[-1] == "bias":
        return "bias"
    if leaf in _ATTENTION:
        return f"attention.{_ATTENTION[leaf]}"
    if leaf.startswith(("attn_", "cross_attn_", "indexer")):
        return "attention.other"
    found = _FEED_FORWARD.fullmatch(leaf)
    if found is None:
        return "other"
    # Older files hold each expert by itself: `blk.0.ffn_up.3.weight`.
    numbered = re.search(r"ffn_\w+\.\d+\.", name) is not None
    return f"{'expert' if found[2] or numbered else 'mlp'}.{found[1]}"
