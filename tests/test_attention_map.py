"""AttentionMap: the arrays behind it, and that every way to show them is readable, aligned and safe."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fastattn.attention_map import AttentionMap
from fastattn.errors import InputError, OptionError

SOURCE = ["I", "am", "eating", "an", "apple", "</s>"]
TARGET = ["je", "mange", "une", "pomme"]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def example(layers: int = 2, heads: int = 3) -> AttentionMap:
    """Cross attention with je→I, mange→eating, une→an, pomme→apple on top of noise; self and encoder at random."""
    rng = np.random.default_rng(1)
    cross = rng.normal(size=(layers, heads, len(TARGET), len(SOURCE)))
    for t, s in enumerate([0, 2, 3, 4]):
        cross[:, :, t, s] += 6
    own = np.where(np.tri(4, dtype=bool), rng.normal(size=(layers, heads, 4, 4)), -np.inf)
    return AttentionMap(
        cross=softmax(cross),
        self=softmax(own),
        encoder=softmax(rng.normal(size=(layers, heads, 6, 6))),
        source_tokens=SOURCE,
        target_tokens=TARGET,
        decoder_tokens=["<s>", *TARGET[:-1]],
    )


def single(tokens: list[str], targets: list[str], weights: object) -> AttentionMap:
    array = np.asarray(weights, np.float32).reshape(1, 1, len(targets), len(tokens))
    return AttentionMap(cross=array, source_tokens=tokens, target_tokens=targets)


def columns(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def test_arrays_are_those_given_and_means_over_what_is_not_named() -> None:
    attention = example()
    assert attention.kinds == ("cross", "self", "encoder")
    for kind in attention.kinds:
        whole = getattr(attention, kind)
        assert np.array_equal(attention.to_numpy(kind, 1, 2), whole[1, 2])
        assert np.array_equal(attention.to_numpy(kind, -1, 0), whole[1, 0])
        assert attention.to_numpy(kind).dtype == np.float32
        for given, axes in (((None, None), (0, 1)), ((0, None), 0), ((None, 1), 0)):
            part = whole if given == (None, None) else whole[0] if given[0] == 0 else whole[:, 1]
            np.testing.assert_allclose(attention.to_numpy(kind, *given), part.mean(axis=axes), rtol=1e-6)
    assert attention.to_numpy("self").shape == (4, 4)


def test_labels_name_rows_and_columns() -> None:
    attention = example()
    assert attention.labels() == (tuple(TARGET), tuple(SOURCE))
    assert attention.labels("self") == (tuple(TARGET), ("<s>", "je", "mange", "une"))
    assert attention.labels("encoder") == (tuple(SOURCE), tuple(SOURCE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sideways",), "kind must be one of cross, self, encoder, found 'sideways'"),
        (("cross", 2), "layer 2: cross attention has 2, counted from 0"),
        (("cross", None, -4), "head -4: cross attention has 3"),
        (("cross", 0.5), "layer: found 0.5, expected an integer or None"),
        (("cross", 0, "a"), "head: found 'a', expected an integer or None"),
        (("cross", True), "layer: found True, expected an integer or None"),
    ],
)
def test_what_is_not_there_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        example().to_numpy(*arguments)  # type: ignore[arg-type]


def test_a_kind_the_model_lacks_names_those_it_has() -> None:
    with pytest.raises(OptionError, match="no encoder attention here, only cross"):
        single(["a"], ["b"], [1.0]).to_numpy("encoder")
    with pytest.raises(OptionError, match="none at all"):
        AttentionMap().to_numpy()


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 3), (0, 1, 1, 2)])
def test_a_shape_that_does_not_fit_the_tokens_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="cross: "):
        AttentionMap(cross=np.zeros(shape, np.float32), source_tokens=["a", "b"], target_tokens=["c"])


def test_alignment_takes_the_largest_weight() -> None:
    aligned = example().alignment()
    assert [(a.target, a.source, a.position) for a in aligned] == [
        ("je", "I", 0),
        ("mange", "eating", 2),
        ("une", "an", 3),
        ("pomme", "apple", 4),
    ]
    assert aligned[0].weight == pytest.approx(example().to_numpy()[0, 0])
    assert single(["a", "b"], ["c"], [0.5, 0.5]).alignment()[0].source == "a"


def test_a_decoder_only_model_shows_its_self_attention() -> None:
    weights = softmax(np.where(np.tri(3, dtype=bool), 1.0, -np.inf))[None, None]
    attention = AttentionMap(self=weights, target_tokens=["c"], decoder_tokens=["a", "b", "c"])
    assert attention.labels() == attention.labels("self") == (("a", "b", "c"), ("a", "b", "c"))
    assert (attention.to_numpy() == attention.to_numpy("self")).all()
    assert "b  a 0.50  b 0.50" in str(attention)
    assert "<table" in attention._repr_html_()


@pytest.mark.filterwarnings("error")
def test_an_output_without_tokens_shows_nothing_and_fails_nowhere(tmp_path: Path) -> None:
    attention = AttentionMap(cross=np.zeros((1, 2, 0, 3), np.float32), source_tokens=["a", "b", "c"])
    assert attention.alignment() == [] and attention.table() == ""
    assert attention.heatmap(width=80, colour=False).startswith("  a   b   c")
    assert "<table" in attention._repr_html_()
    pytest.importorskip("matplotlib")
    assert attention.plot(tmp_path / "empty.png").axes[0].texts[0].get_text() == "no tokens"


def test_the_table_lists_the_most_attended_first() -> None:
    attention = single(["a", "b", "c"], ["x", "yy"], [0.2, 0.7, 0.1, 1.0, 0.0, 0.0])
    assert attention.table() == str(attention) == "x   b 0.70  a 0.20  c 0.10\nyy  a 1.00"
    assert attention.table(top=1) == "x   b 0.70\nyy  a 1.00"


def test_the_plain_heatmap_shades_by_weight() -> None:
    attention = single(["a", "b", "c", "d", "e"], ["x"], [0.04, 0.06, 0.3, 0.5, 0.8])
    header, row, legend = attention.heatmap(width=80, colour=False).splitlines()
    assert row == "x     ░░░ ▒▒▒ ▓▓▓ ███"
    assert [header.index(letter) for letter in "abcde"] == [3, 7, 11, 15, 19]
    assert legend == "░ from 0.05  ▒ from 0.25  ▓ from 0.50  █ from 0.75"


def test_the_coloured_heatmap_holds_percentages_and_closes_its_colours() -> None:
    text = example().heatmap(width=80, colour=True)
    assert all(line.endswith("\x1b[0m") for line in text.splitlines()[1:])
    numbers = [[int(n) for n in re.findall(r"\d+", line)] for line in ESCAPE.sub("", text).splitlines()[1:]]
    np.testing.assert_allclose(numbers, example().to_numpy() * 100, atol=0.51)


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("width", [10, 24, 40, 200])
def test_columns_line_up_and_keep_to_the_width(colour: bool, width: int) -> None:
    tokens = ["日本語", "e\u0301te\u0301", "a", "long", "語", "wörter"]
    attention = single(tokens, ["猫", "chats"], [0.8, 0, 0, 0, 0.2, 0, 0, 0, 0, 0.1, 0, 0.9])
    lines = ESCAPE.sub("", attention.heatmap(width=width, colour=colour)).splitlines()
    picture = [line for line in lines if not line.startswith("░ from")]
    assert max(map(columns, picture)) <= width
    if width == 200 and not colour:
        header, cat, cats = picture
        block = cat.index("█")
        assert columns(header[: header.index("日")]) == columns(cat[:block])  # the first column begins at one place
        assert columns(header[: header.index("w")]) == columns(cats[: cats.index("█")])


def test_a_narrow_terminal_gets_upright_labels_and_then_panels() -> None:
    upright = example().heatmap(width=26, colour=False).splitlines()
    assert [line[6:].split() for line in upright[:2]] == [["e"], ["a", "a"]]
    panels = example().heatmap(width=16, colour=False).split("\n\n")
    assert len(panels) == 2 and all("mange" in panel for panel in panels)


def test_control_characters_never_reach_the_terminal() -> None:
    attention = single(["\x1b[31mred", "a\nb"], ["", "  "], [1, 0, 0, 1])
    for text in (attention.table(), attention.heatmap(width=80, colour=False), attention._repr_html_()):
        assert "\x1b" not in text and "a\\nb" in text and "␣" in text


def test_colour_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    assert "\x1b" not in example().heatmap()
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in example().heatmap()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in example().heatmap()


def test_html_is_escaped_and_well_formed() -> None:
    text = single(["<script>alert(1)</script>", 'a"b'], ["&"], [0.25, 0.75])._repr_html_()
    assert "<script" not in text and "&lt;script&gt;" in text and "&amp;" in text and ">0.75<" in text
    open_tags: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Balanced().feed(text)
    assert open_tags == []
    assert "http" not in text


def test_html_of_a_very_large_map_points_to_the_picture() -> None:
    tokens = [f"w{i}" for i in range(200)]
    assert ".plot()" in single(tokens, tokens, np.full((200, 200), 0.005))._repr_html_()


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot_writes_the_format_of_the_suffix(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"attention{suffix}"
    figure = example().plot(file, layer=0, title="what $je$ saw")
    start = file.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if suffix == ".png" else b"<?xml" in start
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == SOURCE
    assert [label.get_text() for label in axes.get_yticklabels()] == TARGET
    assert np.array_equal(axes.images[0].get_array(), example().to_numpy("cross", 0))


@pytest.mark.parametrize("size", [(1, 2), (6, 7), (40, 50), (180, 200)])
def test_plot_labels_never_overlap(size: tuple[int, int]) -> None:
    pytest.importorskip("matplotlib")
    rows, across = size
    attention = single(["w" * (s % 9 + 1) for s in range(across)], [f"t{t}" for t in range(rows)], np.ones(size))
    figure = attention.plot()
    figure.canvas.draw()
    axes = figure.axes[0]
    tall = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(tall))
    wide = [label.get_window_extent() for label in axes.get_xticklabels()]
    turned = axes.get_xticklabels()[0].get_rotation() % 90 != 0
    feet = [box.x0 if turned else box.x1 for box in wide]  # slanted boxes overlap where their letters do not
    starts = [box.x0 for box in wide]
    assert all(nxt > foot for foot, nxt in zip(feet, starts[1:], strict=False))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a.xyz", OptionError, "format 'xyz'"),
        ("a", OptionError, "format '.none.'"),
        ("no/a.png", FileNotFoundError, "No such"),
    ],
)
def test_plot_refuses_what_it_cannot_write(tmp_path: Path, name: str, error: type[Exception], message: str) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(error, match=message):
        example().plot(tmp_path / name)


def test_matplotlib_is_loaded_by_plot_only() -> None:
    code = "import sys, fastattn.attention_map; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_without_matplotlib_plot_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r'pip install "fastattn\[plot\]"'):
        example().plot()
