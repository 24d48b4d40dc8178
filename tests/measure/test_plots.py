"""What the plots show, that labels keep off each other, and that no name or number breaks them."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from results_made import bench_document, bench_record, estimate, eval_record, timing

from mlxquant import RequestError, WriteError
from mlxquant.measure import plots
from mlxquant.measure.gather import Measured
from mlxquant.measure.plot_labels import Box, spread
from mlxquant.measure.plot_style import style

FORMATS = [
    ("Q2_K", 2.63, 0.83, "llama.cpp", "rtn"),
    ("IQ3_XXS", 3.2, 0.215, "llama.cpp", "imatrix"),
    ("mixed_2_6", 3.3, 0.185, "mlxquant", "gptq"),
    ("Q3_K_S", 3.5, 0.295, "llama.cpp", "rtn"),
    ("affine3-g64", 3.5, 0.158, "mlxquant", "gptq"),
    ("affine3-g64", 3.5, 0.35, "mlx-lm", "rtn"),
    ("Q3_K_M", 3.91, 0.098, "llama.cpp", "imatrix"),
    ("mxfp4", 4.25, 0.116, "mlxquant", "rtn"),
    ("IQ4_XS", 4.31, 0.0552, "llama.cpp", "imatrix"),
    ("affine4-g64", 4.5, 0.0739, "mlx-lm", "rtn"),
    ("affine4-g64", 4.5, 0.0348, "mlx-lm", "dwq"),
    ("affine4-g64", 4.5, 0.0376, "mlx-lm", "awq"),
    ("Q4_0", 4.55, 0.0732, "llama.cpp", "rtn"),
    ("Q4_K_M", 4.85, 0.0236, "llama.cpp", "imatrix"),
    ("Q8_0", 8.5, 0.0003, "llama.cpp", "rtn"),
]
FRONT = ["Q2_K", "IQ3_XXS", "mixed_2_6", "affine3-g64", "Q3_K_M", "IQ4_XS", "affine4-g64"]
FRONT += ["Q4_K_M", "Q8_0"]


def evals(**changes: Any) -> list[dict[str, Any]]:
    """A crowd like that of a real comparison, and the model that it was made of."""
    made = []
    for name, bits, kl, tool, method in FORMATS:
        of = {"model.format": name, "model.tool": tool, "model.method": method, "model.name": name}
        of["model.name"] += tool + method
        quality = {"kl.mean": estimate(kl, kl / 10), "perplexity": estimate(30 * (1 + kl), 0.4)}
        made.append(eval_record(bits, **of, **quality, **changes))
    full = {"model.format": "bf16", "model.name": "full", "model.tool": None, "model.method": None}
    zero = {"kl.mean": estimate(0.0), "perplexity": estimate(30.0, 0.4)}
    return [*made, eval_record(16.0, **full, **zero, **changes)]


def benches(chip: str = "Apple M2 Pro", **changes: Any) -> list[Measured]:
    records = [
        bench_record(bits, context=context, peak_memory=int(bits * 1e8 + context * 1e5), **changes)
        for bits in (4.5, 8.5)
        for context in (0, 2048, 8192)
    ]
    document = bench_document(*records, **{"machine.chip": chip})
    return [Measured(record, document, "a.json") for record in document["records"]]


def drawn(found: plots.Plot | None) -> plots.Plot:
    assert found is not None
    return found


def words(axes: Any) -> list[Any]:
    """Every piece of text that somebody can see in the axes."""
    return [text for text in axes.texts if text.get_text() and text.get_alpha() != 0]


def boxes(axes: Any) -> list[Box]:
    return [Box(*text.get_window_extent().extents) for text in words(axes)]


def pixels(plot: plots.Plot) -> Any:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(plot.png())).convert("RGB"))


@pytest.fixture(scope="module")
def crowd() -> plots.Plot:
    return drawn(plots.quality(evals()))


def test_the_front_is_named(crowd: plots.Plot) -> None:
    (axes,) = crowd.figure.axes[:1]
    bold = [text.get_text() for text in words(axes) if text.get_fontweight() == "bold"]
    assert bold == FRONT
    listed = "Q2_K, IQ3_XXS, mixed_2_6, affine3-g64 (mlxquant gptq), Q3_K_M, IQ4_XS, "
    assert listed + "affine4-g64 (mlx-lm dwq), Q4_K_M, Q8_0." in crowd.caption
    assert "bf16 (16.00 bits)" in crowd.caption
    assert crowd.title == "books-7m: quality against size"


def test_axes_have_names_and_units(crowd: plots.Plot) -> None:
    axes = crowd.figure.axes[0]
    assert axes.get_xlabel() == "size (bits per weight)"
    assert axes.get_ylabel().startswith("mean KL divergence from the reference (nats per token)")
    (top,) = axes.child_axes
    assert top.get_xlabel() == "size on disk (MB)"
    assert axes.get_yscale() == "log"
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert ticks == ["0.001", "0.01", "0.1", "1"]


def test_labels_keep_off_each_other_the_points_and_the_legend(crowd: plots.Plot) -> None:
    axes = crowd.figure.axes[0]
    found = boxes(axes)
    assert len(found) >= len(FRONT) + 3
    for one, other in itertools.combinations(found, 2):
        assert not one.meets(other)
    legend = Box(*axes.get_legend().get_window_extent().extents)
    points = [axes.transData.transform((bits, kl)) for _, bits, kl, _, _ in FORMATS]
    for box in found:
        assert not box.meets(legend)
        assert box.within(Box(*axes.get_window_extent().extents))
        assert not any(box.holds(*point) for point in points)


def test_the_legend_keeps_off_the_front() -> None:
    plot = drawn(plots.quality([eval_record(4.5), eval_record(8.5)]))
    axes = plot.figure.axes[0]
    legend = Box(*axes.get_legend().get_window_extent().extents)
    (front,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    corners = axes.transData.transform(front.get_xydata())
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        assert not legend.crossed(x0, y0, x1, y0)
        assert not legend.crossed(x1, y0, x1, y1)


def test_every_interval_is_drawn(crowd: plots.Plot) -> None:
    axes = crowd.figure.axes[0]
    bars = {
        (round(x, 2), round(low, 6), round(high, 6))
        for lines in axes.collections
        for (x, low), (_, high) in lines.get_segments()
    }
    assert bars == {(b, round(kl * 0.9, 6), round(kl * 1.1, 6)) for _, b, kl, _, _ in FORMATS}


def test_series_differ_without_colour() -> None:
    looks = [style(place) for place in range(56)]
    assert len({(look.colour, look.marker) for look in looks}) == 56
    assert len({look.marker for look in looks[:8]}) == 8
    assert len({str(look.line) for look in looks[:6]}) == 6


def test_perplexity_with_its_reference() -> None:
    plot = drawn(plots.quality(evals(), "perplexity"))
    axes = plot.figure.axes[0]
    assert axes.get_ylabel().startswith("perplexity (per token)")
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[-2:] == ["Pareto front", "reference"]
    low, high = axes.get_ylim()
    assert low < 30 < high


def test_without_divergences_perplexity_is_drawn() -> None:
    bare = [{**record, "kl": None, "reference": None} for record in evals()]
    plot = drawn(plots.quality(bare))
    assert plot.figure.axes[0].get_ylabel().startswith("perplexity")


def test_texts_have_panels_of_their_own() -> None:
    other = {"text.name": "other.txt", "text.sha256": "ee" * 32}
    plot = drawn(plots.quality([*evals(), *evals(**other)]))
    panels = [axes.get_title(loc="left") for axes in plot.figure.axes]
    assert panels == [
        "books-7m\non eval.txt, mlx-lm windows of 512",
        "books-7m\non other.txt, mlx-lm windows of 512",
    ]
    assert "On the Pareto front on other.txt: Q2_K" in plot.caption


def test_nothing_to_draw() -> None:
    assert plots.quality([]) is None
    assert plots.speed([]) is None
    assert plots.memory([]) is None
    assert plots.memory([one for one in benches() if one.record["context"] == 0]) is None
    zero = [eval_record(16.0, **{"kl.mean": estimate(0.0)})]
    assert plots.quality(zero, "kl") is None
    with pytest.raises(RequestError, match="one of kl, perplexity expected"):
        plots.quality(evals(), "speed")


def test_speed_beside_its_limit() -> None:
    slow = benches("Apple M1", throttled=True)
    plot = drawn(plots.speed([*benches(), *slow]))
    (axes,) = plot.figure.axes
    texts = [text.get_text() for text in words(axes)]
    assert texts[:2] == [
        "Apple M1, 16-core GPU (200 GB/s, Apple)",
        "Apple M2 Pro, 16-core GPU (200 GB/s, Apple)",
    ]
    assert texts[2] == "70 %: 33,908 of 48,441, throttled"
    assert texts[4] == "70 %: 33,908 of 48,441"
    assert axes.get_xlabel() == "decode speed (tokens per second)"
    widths = sorted({round(bar.get_width()) for bar in axes.patches})
    assert widths == [17952, 25645, 33908, 48441]
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [True, False] * 2 + [False] * 4
    right = axes.get_window_extent().x1
    for box in boxes(axes):
        assert box.right <= right
    for one, other in itertools.combinations(boxes(axes), 2):
        assert not one.meets(other)


def test_speed_without_a_limit() -> None:
    plot = drawn(plots.speed(benches(limit=None, share=None)))
    texts = [text.get_text() for text in words(plot.figure.axes[0])]
    assert texts[1] == "33,908, limit not known"


def test_memory_against_context() -> None:
    small = benches("Apple M1")
    plot = drawn(plots.memory([*benches(), *small]))
    axes, other = plot.figure.axes
    assert axes.get_title(loc="left") == "Apple M1, 16-core GPU"
    assert other.get_title(loc="left") == "Apple M2 Pro, 16-core GPU"
    assert axes.get_ylabel() == "peak memory (GB)"
    assert axes.get_xlabel() == "length (tokens in the cache)"
    lines = [line.get_xydata().tolist() for line in axes.lines]
    assert lines[0] == [[576, 0.45], [2624, 0.6548], [8768, 1.2692]]
    names = [text.get_text() for text in words(axes)]
    assert names == ["affine4-g64", "affine8-g64"]
    for one, another in itertools.combinations(boxes(axes), 2):
        assert not one.meets(another)
    frame = plot.figure.bbox
    assert all(box.right <= frame.x1 for box in boxes(other))


def test_the_memory_of_the_machine_is_drawn_where_it_is_near() -> None:
    near = benches()
    document = near[0].document
    document["machine"]["memory_bytes"] = 2 << 30
    for one in near:
        one.record["peak_memory"] = 1_500_000_000 + one.record["context"]
    plot = drawn(plots.memory(near))
    assert "memory of the machine, 2 GiB" in [t.get_text() for t in words(plot.figure.axes[0])]


def test_the_same_figures_make_the_same_bytes(crowd: plots.Plot) -> None:
    again = drawn(plots.quality(evals()))
    assert again.svg() == crowd.svg() == crowd.svg()
    assert again.png() == crowd.png()
    for make in (plots.speed, plots.memory):
        assert drawn(make(benches())).svg() == drawn(make(benches())).svg()


def test_an_image_is_itself_and_no_more(crowd: plots.Plot) -> None:
    svg = crowd.svg().decode()
    ElementTree.fromstring(svg)
    addresses = set(re.findall(r"https?://[^\s\"<>]*", svg))
    assert addresses <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd",
        "http://purl.org/dc/elements/1.1/",
        "http://creativecommons.org/ns#",
        "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    }
    assert "<text" not in svg
    image = pixels(crowd)
    assert image.shape == (768, 1152, 3)
    assert (image[0] == 255).all()


def test_colours_and_greys_of_the_front_and_the_rest_differ(crowd: plots.Plot) -> None:
    """A filled mark and a hollow one differ at their middle, in grey too."""
    axes = crowd.figure.axes[0]
    image = pixels(crowd).astype(float) @ [0.299, 0.587, 0.114]
    filled, hollow = (
        axes.transData.transform(point) * 1.6 for point in ((5 - 0.15, 0.0236), (4.25, 0.116))
    )
    height = image.shape[0]
    assert image[int(height - filled[1]), int(filled[0])] < 130
    x, y = int(hollow[0]), int(height - hollow[1])
    assert image[y - 1 : y + 2, x - 1 : x + 2].max() > 200


NAMES = [r"$\frac{1}{0}$", "--><script>", "\x00\x1b\n", "模型 🦊", "x" * 500, "\u202e", "{}%s"]


def test_no_name_breaks_a_plot() -> None:
    records = [
        eval_record(2 + place, **{"model.format": name, "model.tool": name, "model.base": "$"})
        for place, name in enumerate(NAMES)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot = drawn(plots.quality(records))
        ElementTree.fromstring(plot.svg())
        assert len(plot.png()) > 1000
        found = benches(NAMES[0], **{"model.format": NAMES[1], "notes": NAMES})
        ElementTree.fromstring(drawn(plots.speed(found)).svg())
        ElementTree.fromstring(drawn(plots.memory(found)).svg())
    assert plot.caption.isprintable()


EXTREMES = (5e-324, 1e-300, 1e-6, 1.0, 1e17, 1e300)


def test_no_number_breaks_a_quality_plot() -> None:
    records = []
    for place, value in enumerate(EXTREMES):
        changes: dict[str, Any] = {"model.format": f"f{place}", "model.bytes": 1}
        changes["perplexity"] = {"value": value, "low": 5e-324, "high": 1e300}
        changes["kl.mean"] = {"value": min(value, 1e17), "low": 0, "high": 1e18}
        changes["model.parameters"] = (1 << 63) - 1 if place % 2 else 1
        records.append(eval_record(min(value, 1000.0), **changes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for measure in (None, "kl", "perplexity"):
            made = plots.quality(records, measure)
            assert made is None or len(made.png()) > 1000


def test_no_number_breaks_the_other_plots() -> None:
    found = []
    for place, value in enumerate(EXTREMES):
        value = min(value, 1e18)
        changes: dict[str, Any] = {"decode": timing(value), "limit": value * 1.5, "share": 1e17}
        changes["decode"]["low"], changes["decode"]["high"] = 5e-324, 1e18
        found += benches(f"chip {place}", prompt=10**place, **changes)
    for place, one in enumerate(found):
        one.record["peak_memory"] = min((1 << 63) - 1, 10**place)
        one.record["context"] = min((1 << 63) - 1, 10 ** (place % 20))
        one.document["machine"]["memory_bytes"] = 1 << (place % 63)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(drawn(plots.speed(found)).png()) > 1000
        made = plots.memory(found)
        assert made is None or len(made.png()) > 1000


def test_a_crowd_too_large_for_a_figure_is_cut_and_said() -> None:
    (one, *_) = benches()
    many = [
        Measured(bench_record(4 + place / 10, **{"model.format": f"f{place}"}), one.document, "a")
        for place in range(63)
    ]
    plot = drawn(plots.speed(many))
    assert plot.caption.endswith("3 more models are in the table.")


def test_saving(tmp_path: Path, crowd: plots.Plot) -> None:
    crowd.save(tmp_path / "a.svg")
    crowd.save(tmp_path / "a.PNG")
    assert (tmp_path / "a.svg").read_bytes() == crowd.svg()
    assert (tmp_path / "a.PNG").read_bytes()[1:4] == b"PNG"
    with pytest.raises(RequestError, match=r"written as \.png or \.svg"):
        crowd.save(tmp_path / "a.pdf")
    with pytest.raises(WriteError, match="cannot be written"):
        crowd.save(tmp_path / "none" / "a.svg")


@pytest.mark.parametrize("seed", range(20))
def test_spread_keeps_order_distance_and_bounds(seed: int) -> None:
    generator = np.random.default_rng(seed)
    wanted = generator.uniform(0, 100, size=generator.integers(1, 9)).tolist()
    placed = spread(wanted, 10, 0, 100)
    assert all(0 <= height <= 100 for height in placed)
    order = np.argsort(wanted, kind="stable")
    assert np.all(np.diff(np.array(placed)[order]) >= 10 - 1e-9)
    if len(wanted) == 1 or np.min(np.diff(np.sort(wanted))) >= 10:
        assert placed == pytest.approx(wanted)


def test_more_labels_than_room_stand_as_far_apart_as_they_can() -> None:
    assert spread([5.0, 5.0, 5.0], 10, 0, 10) == [0, 5, 10]


@pytest.mark.parametrize(
    ("line", "crossed"),
    [
        ((-1, 0.5, 2, 0.5), True),
        ((0.5, -1, 0.5, 2), True),
        ((-1, -1, 2, 2), True),
        ((0.2, 0.2, 0.3, 0.3), True),
        ((-1, 2, 2, 2), False),
        ((-1, 0.5, -0.5, 0.5), False),
        ((0, 3, 3, 0), False),
    ],
)
def test_lines_through_boxes(line: tuple[float, float, float, float], crossed: bool) -> None:
    assert Box(0, 0, 1, 1).crossed(*line) == crossed
    assert Box(0, 0, 1, 1).crossed(*line[2:], *line[:2]) == crossed
