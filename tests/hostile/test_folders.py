"""Every broken model gets one line that says why; chance gets one too, or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hostile.building import AFFINE, CONFIG, LAYER, Builder, packed, plain, sharded, write
from hostile.cases import ALL, Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxquant.errors import FileFormatError, ModelError
from mlxquant.load.from_hf import open_folder


@pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
def test_refused_in_one_line_that_says_why(case: Case, tmp_path: Path) -> None:
    path = case.build(tmp_path)
    with pytest.raises((FileFormatError, ModelError)) as caught:
        open_folder(path)
    message = str(caught.value)
    assert caught.value.exit_status == 2
    assert message.isprintable()
    for part in case.says:
        assert part in message


@pytest.mark.parametrize("build", [plain, packed, sharded])
def test_the_models_that_the_cases_break_are_whole(build: Builder, tmp_path: Path) -> None:
    build(tmp_path)
    assert len(open_folder(tmp_path).tensors) == 3


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 130),
    st.sampled_from([2**31, 2**64, -0.5, 1e300, "", "4", "affine", "mxfp4", "../x", "é\0"]),
    st.text(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["bits", "group_size", "mode", "hidden_size", LAYER, "model.norm", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KEYS = [
    *CONFIG,
    "auto_map",
    "head_dim",
    "llm_config",
    "model_file",
    "quantization",
    "quantization_config",
    "text_config",
]


def opens_or_says_why(folder: Path) -> None:
    """Opening gives a model or one of the two errors."""
    try:
        found = open_folder(folder)
    except (FileFormatError, ModelError) as problem:
        assert str(problem).isprintable()
    else:
        assert found.tensors


shared = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.slow
@shared
@given(
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    st.dictionaries(st.sampled_from([*AFFINE, LAYER, "model.norm", "x"]), VALUES, max_size=3),
)
def test_chance_in_settings(
    tmp_path: Path, changes: dict[str, Any], quantization: dict[str, Any]
) -> None:
    packed(tmp_path, AFFINE | quantization)
    write(tmp_path, "config.json", CONFIG | {"quantization": AFFINE | quantization} | changes)
    opens_or_says_why(tmp_path)


@pytest.mark.slow
@shared
@given(
    st.dictionaries(st.sampled_from(["model_norm_weight", "lm_head_weight", "x"]), VALUES),
    st.one_of(st.none(), VALUES),
)
def test_chance_in_the_index(tmp_path: Path, changes: dict[str, Any], index: Any) -> None:
    sharded(tmp_path, **changes)
    if index is not None:
        write(tmp_path, "model.safetensors.index.json", index)
    opens_or_says_why(tmp_path)
