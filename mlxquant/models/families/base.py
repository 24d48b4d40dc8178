"""The contract of a family: one model type of Hugging Face ↔ one architecture of GGUF.

A family is a value: settings (config.json ↔ metadata) and rules (names and layouts of tensors), in
tables, each entry with its inverse. Names on the model's side are those that mlx-lm's `sanitize`
makes or leaves alone, so that a checkpoint goes out by the names of `models.mlx_lm.resolve_model`
and a GGUF comes in as what mlx-lm loads. Where Hugging Face's own names differ (experts apart),
further rules take them too; the first rule for a tensor is the one that is used on the way back.

Nothing is dropped: a tensor that no rule names and a setting that the other side cannot express
are errors that name it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import ModelError, one_line
from ...files.quote import quote
from ...load.lazy import Node
from .changes import SAME, Change, as_float32, constant
from .rope import FREQUENCIES, LONG, SHORT, llama3_factors, rope_kind
from .settings import Derived, Setting, Tied
from .sides import Header, Metadata, Settings

__all__ = ["Family", "Rule", "linear", "rule", "unwrapped"]

#: metadata of an architecture that says nothing about the mathematics, or only the usual
_HARMLESS: dict[str, tuple[Any, ...] | None] = {
    "vocab_size": None,
    "tensor_data_layout": None,
    "rope.scaling.finetuned": None,
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "rope.scaling.type": ("none",),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    # Converters write both where a config.json has both; an architecture's norms are of one kind.
    "attention.layer_norm_epsilon": None,
    "attention.layer_norm_rms_epsilon": None,
}

#: keys of config.json about training, software, tokens and storage
_NOT_THE_MODEL = frozenset(
    [
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "cache_implementation",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "hidden_dropout",
        "id2label",
        "image_token_id",
        "image_token_index",
        "initializer_range",
        "label2id",
        "mm_tokens_per_image",
        "mlxquant",
        "model_type",
        "pad_token_id",
        "pretraining_tp",
        "quantization",
        "quantization_config",
        "resid_pdrop",
        "residual_dropout",
        "embedding_dropout",
        "router_aux_loss_coef",
        "output_router_logits",
        "text_config",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "vision_config",
        "boi_token_index",
        "eoi_token_index",
        "router_jitter_noise",
        "ep_size",
        "aux_loss_alpha",
        "seq_aux",
        "num_nextn_predict_layers",
        "experts_per_token",
    ]
)

#: tensors of a checkpoint that are computed, not learnt, and that mlx-lm leaves out as well
_COMPUTED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|attn\.masked_bias|attention\.bias)$")
_WRAPPERS = ("language_model.", "model.language_model.")


@dataclass(frozen=True)
class Rule:
    """Tensors of the one side that are the tensors of the other.

    Attributes:
        hf, gguf: names, `{n}` for the layer and `{e}` for the expert or head.
        change: what happens to them.
        needed: a model without them is refused; otherwise they may be missing, all together.
        count: config.json's key of how many `{e}` there are.
    """

    hf: tuple[str, ...]
    gguf: tuple[str, ...]
    change: Change = SAME
    needed: bool = True
    count: str = ""

    def of_layer(self, n: int) -> Rule:
        """The rule with the layer written out."""
        hf, gguf = (
            tuple(name.replace("{n}", str(n)) for name in names) for names in (self.hf, self.gguf)
        )
        return Rule(hf, gguf, self.change, self.needed, self.count)

    def first(self) -> str:
        """The first of the model's names."""
        return self.hf[0].replace("{e}", "0")

    def names(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The model's names, every expert's or head's written out."""
        if not self.count:
            return self.hf
        several = range(Settings(config).count(self.count))
        return tuple(name.replace("{e}", str(e)) for name in self.hf for e in several)


def rule(
    hf: str, gguf: str, change: Change = SAME, *, needed: bool = True, count: str = ""
) -> Rule:
    """The rule of one tensor on either side, or of `count` of them on the model's."""
    return Rule((hf,), (gguf,), change, needed, count)


def linear(hf: str, gguf: str, change: Change = SAME) -> tuple[Rule, ...]:
    """The rules of a weight and its bias, which may be missing; names without the last part."""
    return (
        rule(f"{hf}.weight", f"{gguf}.weight", change),
        rule(f"{hf}.bias", f"{gguf}.bias", change, needed=False),
    )


@dataclass(frozen=True)
class Family:
    """One model type.

    Attributes:
        model_types: config.json's `model_type`s; the first is written on the way back.
        architecture: GGUF's `general.architecture`.
        settings, rules: the tables.
        defaults: what keys of config.json mean that are missing, where mlx-lm has no default.
        chosen: whether a file of the architecture is of this family, where several share one.
    """

    model_types: tuple[str, ...]
    architecture: str
    settings: tuple[Setting, ...]
    rules: tuple[Rule, ...]
    chosen: Callable[[Header], bool] = lambda header: True
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self, config: Mapping[str, Any]) -> Metadata:
        """The GGUF metadata of a config.json, `general.architecture` first.

        Raises:
            ModelError: a key whose value cannot be expressed, or that is missing.
        """
        settings = Settings(config, self.defaults)
        found: Metadata = {"general.architecture": self.architecture}
        for setting in self.settings:
            for name, value in setting.write(settings).items():
                found[f"{self.architecture}.{name}"] = value
        return found

    def unread(self, config: Mapping[str, Any]) -> list[str]:
        """The keys of a config.json that neither a setting nor mlx-lm's model looks at, sorted.

        What has a value there and is no matter of course: a GGUF file will not say it.
        """
        settings = Settings(config, self.defaults)
        for setting in self.settings:
            setting.write(settings)
        given = {key for key, value in settings.values.items() if value not in (None, {}, [])}
        return sorted(key for key in given - settings.asked - _NOT_THE_MODEL if key[0] != "_")

    def config(self, metadata: Mapping[str, Any], tensors: Mapping[str, Node]) -> dict[str, Any]:
        """The config.json of a GGUF file.

        Args:
            metadata: every key of the file, plain or as `files.gguf` reads them.
            tensors: every tensor of the file by name, shapes rows first; of a block format a node
                of its wire bytes will do. Only rope factors are read.

        Raises:
            ModelError: metadata that is missing, implausible, or not known for the architecture.
        """
        header = Header(self.architecture, metadata, tensors)
        blocks = header.count("block_count", least=1)
        if blocks > len(tensors):
            raise header.refuse("block_count", blocks, f"the file has {len(tensors)} tensors")
        found: dict[str, Any] = {"model_type": self.model_types[0]}
        for setting in self.settings:
            found.update(setting.read(header))
        self._check_derived(header, found)
        prefix = f"{self.architecture}."
        for key in metadata:
            name = key.removeprefix(prefix)
            if name == key or name in header.asked:
                continue
            allowed = _HARMLESS.get(name, ())
            if allowed is not None and header.get(name) not in allowed:
                raise header.refuse(name, header.get(name), "not known for this architecture")
        return found

    def to_gguf(self, nodes: Mapping[str, Node], config: Mapping[str, Any]) -> dict[str, Node]:
        """A model's tensors as those of a GGUF file, in the order of the rules.

        Args:
            nodes: every tensor of the model; one that is in a block format already as U8
                [rows, bytes] of its wire bytes.

        Returns: the nodes by name; vectors and biases as F32, as llama.cpp computes with them.

        Raises:
            ModelError: a tensor that is missing, or that no rule names.
        """
        settings = Settings(config, self.defaults)
        _check_layers(settings, len(nodes))
        rest = {unwrapped(name): node for name, node in nodes.items()}
        tied = [each.default for each in self.settings if isinstance(each, Tied)]
        if tied and settings.get("tie_word_embeddings", tied[0]):
            rest.pop("lm_head.weight", None)  # a second copy of the embedding
        found: dict[str, Node] = {}
        done: set[str] = set()
        for each in self.expanded(settings.values):
            if each.first() not in rest:
                continue
            inputs = _take(rest, each.names(settings.values))
            outputs = _changed(each.first(), each.change.to_gguf, inputs, settings.values)
            for name, node in zip(each.gguf, outputs, strict=True):
                found[name] = as_float32(node) if _is_float32(name, node) else node
            done.update(each.hf, each.gguf)
        left = [name for name in rest if not _COMPUTED.search(name)]
        self._check_complete(settings.values, done, left, gguf=True)
        return {**found, **self._factors(settings)}

    def origins(self, names: Collection[str], config: Mapping[str, Any]) -> dict[str, list[str]]:
        """From which of a model's tensors `to_gguf` makes each of a GGUF file's."""
        settings = Settings(config, self.defaults)
        given = {unwrapped(name): name for name in names}
        found: dict[str, list[str]] = {}
        for each in self.expanded(settings.values):
            if each.first() in given:
                inputs = [given.pop(name) for name in each.names(settings.values) if name in given]
                found.update(dict.fromkeys(each.gguf, inputs))
        return found

    def to_hf(self, nodes: Mapping[str, Node], config: Mapping[str, Any]) -> dict[str, Node]:
        """A GGUF file's tensors as those of a model, in the order of the rules.

        Args:
            nodes: every tensor of the file, shapes rows first; of a block format as U8
                [rows, bytes] of its wire bytes.
            config: what `config` made of the file's metadata.

        Raises:
            ModelError: a tensor that is missing, or that no rule names.
        """
        rest = dict(nodes)
        _check_layers(Settings(config), len(nodes))
        for name in self._factors(Settings(config)):
            rest.pop(name, None)
        found: dict[str, Node] = {}
        done: set[str] = set()
        for each in self.expanded(config):
            if each.gguf[0] not in rest:
                continue
            inputs = _take(rest, each.gguf)
            outputs = _changed(each.gguf[0], each.change.to_hf, inputs, config)
            if each.count and len(outputs) != Settings(config).count(each.count):
                expected = f"{config[each.count]} expected ({each.count})"
                raise ModelError(f"tensor {quote(each.gguf[0])}: {len(outputs)} parts, {expected}")
            found.update(zip(each.names(config), outputs, strict=True))
            done.update(each.hf, each.gguf)
        self._check_complete(config, done, list(rest), gguf=False)
        return found

    def _factors(self, config: Settings) -> dict[str, Node]:
        """The tensors of rope factors, which are settings in config.json."""
        kind = rope_kind(config)
        if kind == "llama3":
            return {FREQUENCIES: constant(llama3_factors(config))}
        if kind != "longrope":
            return {}
        import numpy as np

        scaling = config.get("rope_scaling")
        return {
            LONG: constant(np.asarray(scaling["long_factor"], dtype=np.float32)),
            SHORT: constant(np.asarray(scaling["short_factor"], dtype=np.float32)),
        }

    def expanded(self, config: Mapping[str, Any]) -> Iterator[Rule]:
        """The rules with their layers written out, those of no layer first."""
        in_layers = [each for each in self.rules if "{n}" in each.hf[0]]
        yield from (each for each in self.rules if "{n}" not in each.hf[0])
        for n in range(Settings(config).count("num_hidden_layers")):
            yield from (each.of_layer(n) for each in in_layers)

    def _check_derived(self, header: Header, config: dict[str, Any]) -> None:
        settings = Settings(config)
        for each in self.settings:
            if isinstance(each, Derived) and each.check:
                value = each.value(settings)
                given = header.get(each.name, value)
                if given != value:
                    raise header.refuse(each.name, given, f"{value} expected")

    def _check_complete(
        self, config: Mapping[str, Any], done: set[str], left: list[str], *, gguf: bool
    ) -> None:
        """Refuse tensors that no rule took, and needed ones that are not `done` by any rule."""
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise ModelError(
                one_line(
                    f"tensor {quote(left[0])}{more}: not known for {self.model_types[0]} "
                    f"(GGUF architecture {self.architecture})"
                )
            )
        for each in self.expanded(config):
            if each.needed and done.isdisjoint((each.hf[0], each.gguf[0])):
                missing = each.hf[0] if gguf else each.gguf[0]
                raise ModelError(f"tensor {quote(missing)} is missing")


def _check_layers(config: Settings, tensors: int) -> None:
    """Refuse more layers than there are tensors, before a name is made for each."""
    layers = config.count("num_hidden_layers")
    if layers > tensors:
        raise config.refuse("num_hidden_layers", layers, f"the model has {tensors} tensors")


def _take(rest: dict[str, Node], names: tuple[str, ...]) -> list[Node]:
    """The nodes of these names, taken out.

    Raises:
        ModelError: one is missing.
    """
    for name in names:
        if name not in rest:
            raise ModelError(f"tensor {quote(name)} is missing beside {quote(names[0])}")
    return [rest.pop(name) for name in names]


def _changed(
    name: str,
    change: Callable[[list[Node], Mapping[str, Any]], list[Node]],
    nodes: list[Node],
    config: Mapping[str, Any],
) -> list[Node]:
    try:
        return change(nodes, config)
    except ModelError as problem:
        raise ModelError(f"tensor {quote(name)}: {problem}") from problem


def _is_float32(name: str, node: Node) -> bool:
    """Whether llama.cpp computes with this tensor in float32 only: vectors, norms, biases."""
    return len(node.shape) == 1 or name.endswith(".bias") or "_norm." in name


def unwrapped(name: str) -> str:
    """A text model's name for a tensor of one that is wrapped for images."""
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            rest = name.removeprefix(wrapper)
            return rest if wrapper == _WRAPPERS[0] else f"model.{rest}"
    return name
