"""The registry: names, MLX's own parameters, and what is refused."""

import mlx.core as mx
import numpy as np
import pytest

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.formats import registry
from mlxquant.formats.base import Format

AFFINE = [f"affine{b}-g{g}" for b in (1, 2, 3, 4, 5, 6, 8) for g in (32, 64, 128)]


def test_names() -> None:
    assert formats.mlx_names() == (*AFFINE, "mxfp4", "mxfp8", "nvfp4")


@pytest.mark.parametrize("name", formats.mlx_names())
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_name_and_its_mlx_parameters_lead_to_the_same_format(name: str, dtype: str) -> None:
    fmt = formats.get(name, dtype)
    assert (fmt.name, fmt.dtype) == (name, dtype)  # type: ignore[attr-defined]
    config = fmt.mlx_config()
    assert list(config) == ["group_size", "bits", "mode"]
    assert formats.from_mlx(**config, dtype=dtype) == fmt
    assert len({fmt, formats.get(name, dtype)}) == 1
    assert fmt.bpw == 8 * sum(part.block_bytes for part in fmt.parts) / fmt.block_size
    with pytest.raises(AttributeError):
        fmt.dtype = "F32"  # type: ignore[attr-defined,misc]


def test_bfloat16_is_the_default() -> None:
    assert formats.get("affine4-g64") == formats.get("affine4-g64", "BF16")
    assert formats.from_mlx(4, 64) == formats.get("affine4-g64", "BF16")


@pytest.mark.parametrize(("mode", "defaults"), list(formats.MODE_DEFAULTS.items()))
def test_mode_defaults_are_mlx_s(mode: str, defaults: tuple[int, int]) -> None:
    group_size, bits = defaults
    weights = mx.random.normal((2, 128))
    asked = mx.quantize(weights, group_size=group_size, bits=bits, mode=mode, stream=mx.cpu)
    plain = mx.quantize(weights, mode=mode, stream=mx.cpu)
    assert [np.array(a).tobytes() for a in plain] == [np.array(a).tobytes() for a in asked]
    assert formats.from_mlx(bits, group_size, mode).mlx_config()["mode"] == mode


def test_an_unknown_name_is_told_what_there_is() -> None:
    for name in ("q4", "AFFINE4-G64", "", None, 4, ["mxfp4"]):
        with pytest.raises(RequestError, match="affine4-g64.*mxfp4, mxfp8, nvfp4"):
            formats.get(name)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="choose one of BF16, F16, F32"):
        formats.get("mxfp4", "F64")


def test_of_mlx_s_formats_alone() -> None:
    with pytest.raises(RequestError, match="choose one of affine.*, mxfp4, mxfp8, nvfp4$"):
        formats.get_mlx("bf16")
    with pytest.raises(RequestError, match="'Q4_K' is GGUF's; an MLX folder cannot hold it"):
        formats.get_mlx("Q4_K")
    with pytest.raises(RequestError, match="'BF16' packs nothing"):
        formats.get_mlx("BF16")


@pytest.mark.parametrize(
    ("bits", "group_size", "mode", "told"),
    [
        (0, 64, "affine", "bits 0: mode affine takes 1, 2, 3, 4, 5, 6, 8"),
        (7, 64, "affine", "bits 7: mode affine takes 1, 2, 3, 4, 5, 6, 8"),
        ("4", 64, "affine", "bits '4': mode affine takes 1, 2, 3, 4, 5, 6, 8"),
        (True, 64, "affine", "bits True: mode affine takes 1, 2, 3, 4, 5, 6, 8"),
        (4.0, 64, "affine", "bits 4.0: mode affine takes 1, 2, 3, 4, 5, 6, 8"),
        (None, 64, "affine", "bits None: mode affine takes 1, 2, 3, 4, 5, 6, 8"),
        (4, 0, "affine", "group_size 0: mode affine takes 32, 64, 128"),
        (4, 65, "affine", "group_size 65: mode affine takes 32, 64, 128"),
        (4, "64", "affine", "group_size '64': mode affine takes 32, 64, 128"),
        (8, 32, "mxfp4", "bits 8: mode mxfp4 takes 4"),
        (4, 64, "mxfp4", "group_size 64: mode mxfp4 takes 32"),
        (4, 32, "nvfp4", "group_size 32: mode nvfp4 takes 16"),
        (4, 32, "mxfp8", "bits 4: mode mxfp8 takes 8"),
        (4, 64, "gptq", "mode 'gptq': choose one of affine, mxfp4, mxfp8, nvfp4"),
        (4, 64, None, "mode None: choose one of affine, mxfp4, mxfp8, nvfp4"),
        (4, 64, {}, "mode {}: choose one of affine, mxfp4, mxfp8, nvfp4"),
    ],
)
def test_what_mlx_does_not_have_is_refused(
    bits: object, group_size: object, mode: object, told: str
) -> None:
    with pytest.raises(RequestError) as caught:
        formats.from_mlx(bits, group_size, mode)  # type: ignore[arg-type]
    assert str(caught.value) == told


@pytest.mark.parametrize("name", ["affine4-g64", "mxfp4", "mxfp8", "nvfp4"])
def test_formats_refuse_other_types(name: str) -> None:
    kind = type(formats.get(name))
    with pytest.raises(RequestError, match="choose one of BF16, F16, F32"):
        kind(**({"bits": 4, "group_size": 64} if "affine" in name else {}), dtype="F64")


def test_a_registered_format_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Renamed(formats.mxfp4.Mxfp4):
        @property
        def name(self) -> str:
            return "renamed"

    monkeypatch.setattr(registry, "FORMATS", {})
    registry.register(Renamed())
    assert isinstance(registry.FORMATS["renamed"], Format)
    with pytest.raises(AssertionError, match="two formats are called renamed"):
        registry.register(Renamed())
