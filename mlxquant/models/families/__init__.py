"""What the names and settings of a model mean on both sides: Hugging Face's and GGUF's.

The import list is the registry: a family is one file, one line here and one line in the tests.
Each has run: a small random model of it gives the same logits in mlx-lm and, exported, in
llama.cpp, and comes back from GGUF as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ModelError, one_line
from ...files.quote import quote
from ...load.lazy import Node
from .base import Family
from .deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from .gemma2 import GEMMA2
from .gemma3 import GEMMA3
from .glm4 import GLM4
from .gpt_oss import GPT_OSS
from .granite import GRANITE
from .llama import LLAMA
from .mixtral import MIXTRAL
from .olmo2 import OLMO2
from .phi3 import PHI3
from .qwen2 import QWEN2
from .qwen2_moe import QWEN2_MOE
from .qwen3 import QWEN3
from .qwen3_moe import QWEN3_MOE
from .sides import Header, typed
from .smollm3 import SMOLLM3
from .stablelm import STABLELM
from .starcoder2 import STARCODER2

__all__ = ["FAMILIES", "Family", "family_of_config", "family_of_metadata", "typed"]

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    SMOLLM3,
    MIXTRAL,
    QWEN2,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    GEMMA2,
    GEMMA3,
    PHI3,
    GPT_OSS,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    GLM4,
    OLMO2,
    GRANITE,
    STABLELM,
    STARCODER2,
)


def family_of_config(config: Mapping[str, Any]) -> Family:
    """The family of a config.json.

    Raises:
        ModelError: no family has its model type.
    """
    kind = config.get("model_type")
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    known = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
    raise ModelError(
        f"model type {quote(str(kind))} has no GGUF architecture here; known are {known}"
    )


def family_of_metadata(metadata: Mapping[str, Any], tensors: Mapping[str, Node]) -> Family:
    """The family of a GGUF file; arguments as `Family.config` has them.

    Raises:
        ModelError: no family has its architecture.
    """
    architecture = metadata.get("general.architecture")
    architecture = getattr(architecture, "value", architecture)
    if architecture is None:
        raise ModelError("metadata 'general.architecture' is missing")
    for family in FAMILIES:
        if architecture == family.architecture and family.chosen(
            Header(family.architecture, metadata, tensors)
        ):
            return family
    known = ", ".join(sorted({family.architecture for family in FAMILIES}))
    raise ModelError(
        one_line(f"GGUF architecture {quote(str(architecture))} is not known; known are {known}")
    )
