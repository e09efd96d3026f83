"""Attention as a result: what each target token looked at, as arrays, table, heatmap, picture and HTML."""

from __future__ import annotations

import html
import os
import shutil
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.errors import InputError, OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float32]

KINDS = ("cross", "self", "encoder")

# Shades of the heatmap without colour, and the weight each begins at.
SHADES = [(0.75, "█"), (0.5, "▓"), (0.25, "▒"), (0.05, "░"), (0.0, " ")]
# Blues of the 256-colour palette, from weight 0 to 1, and from which step on the number on them is white.
BLUES = [231, 189, 153, 117, 111, 75, 69, 33, 27, 26, 19]
FIRST_DARK = 8
LONGEST_LABEL = 24  # columns a token may take in the terminal
LARGEST_HTML = 20_000  # cells; beyond, a browser is better served by a picture


class Aligned(NamedTuple):
    """A target token, the source token it attends to most, the weight it gives it and that token's position."""

    target: str
    source: str
    weight: float
    position: int


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMap:
    """The attention behind one output: float32 arrays [layer, head, target, source], None where the model has none.

    cross: rows are target tokens, columns source tokens. self: what the decoder looked back at; its columns are
    `decoder_tokens`, the start token (or the prompt) first. encoder: both are source tokens. A row sums to 1.

        >>> weights = np.array([[[[0.9, 0.1], [0.2, 0.8]]]], np.float32)
        >>> attention = AttentionMap(cross=weights, source_tokens=("an", "apple"), target_tokens=("une", "pomme"))
        >>> attention.alignment()[1].source
        'apple'
        >>> print(attention)
        une    an 0.90     apple 0.10
        pomme  apple 0.80  an 0.20
    """

    cross: FloatArray | None = None
    self: FloatArray | None = None
    encoder: FloatArray | None = None
    source_tokens: Sequence[str] = ()
    target_tokens: Sequence[str] = ()
    decoder_tokens: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("source_tokens", "target_tokens", "decoder_tokens"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for kind in KINDS:
            weights = getattr(self, kind)
            if weights is None:
                continue
            if not isinstance(weights, np.ndarray):
                raise InputError(
                    f"{kind}: found {type(weights).__name__}, expected an array [layer, head, target, source]"
                )
            if weights.ndim != 4 or 0 in weights.shape[:2]:
                raise InputError(f"{kind}: expected [layer, head, target, source], found the shape {weights.shape}")
            rows, columns = self.labels(kind)
            if weights.shape[2:] != (len(rows), len(columns)):
                raise InputError(f"{kind}: {len(rows)} × {len(columns)} tokens, but the shape is {weights.shape}")

    def __repr__(self) -> str:
        shapes = [f"{kind}={list(getattr(self, kind).shape)}" for kind in KINDS if getattr(self, kind) is not None]
        return f"AttentionMap({', '.join(shapes)})"

    def __str__(self) -> str:
        return self.table()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds this map holds, of "cross", "self" and "encoder"."""
        return tuple(kind for kind in KINDS if getattr(self, kind) is not None)

    def labels(self, kind: str | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tokens of the rows and of the columns of one kind; without a name of the first there is, cross before self."""
        kind = kind or self._main()
        source, target, decoder = tuple(self.source_tokens), tuple(self.target_tokens), tuple(self.decoder_tokens)
        if kind == "cross":
            return target, source
        if kind == "encoder":
            return source, source
        if kind == "self":  # a decoder-only model may give the rows of its prompt too
            weights = self.self
            return (target if weights is None or weights.shape[2] == len(target) else decoder), decoder
        raise OptionError(f"kind must be one of {', '.join(KINDS)}, found {kind!r}")

    def to_numpy(self, kind: str | None = None, layer: int | None = None, head: int | None = None) -> FloatArray:
        """The weights of one kind, float32 [target, source]; the mean over layers and over heads where None.

        kind: default the first there is, cross before self. Negative numbers count from the end. Raises OptionError for a kind,
        layer or head the map does not have.
        """
        kind = kind or self._main()
        self.labels(kind)
        weights = getattr(self, kind)
        if weights is None:
            raise OptionError(f"no {kind} attention here, only {', '.join(self.kinds) or 'none at all'}")
        for axis, (name, index) in enumerate((("layer", layer), ("head", head))):
            if index is not None and (isinstance(index, bool) or not isinstance(index, (int, np.integer))):
                raise OptionError(f"{name}: found {index!r}, expected an integer or None")
            if index is not None and not -weights.shape[axis] <= index < weights.shape[axis]:
                raise OptionError(f"{name} {index}: {kind} attention has {weights.shape[axis]}, counted from 0")
        layers = weights if layer is None else weights[layer][None]
        heads = layers if head is None else layers[:, head][:, None]
        return np.asarray(heads.mean(axis=(0, 1), dtype=np.float64), np.float32)

    def alignment(self, kind: str | None = None, layer: int | None = None, head: int | None = None) -> list[Aligned]:
        """For each target token its most attended source token (the first of equals) and the weight."""
        weights = self.to_numpy(kind, layer, head)
        rows, columns = self.labels(kind)
        best = weights.argmax(axis=1) if columns else []
        return [
            Aligned(row, columns[s], float(weights[t, s]), int(s))
            for t, (row, s) in enumerate(zip(rows, best, strict=True))
        ]

    def table(self, kind: str | None = None, layer: int | None = None, head: int | None = None, top: int = 3) -> str:
        """A line per target token: the source tokens it attends to most and their weights, none below 0.01."""
        weights = self.to_numpy(kind, layer, head)
        rows, columns = self.labels(kind)
        lines = []
        for row, line in zip(rows, weights, strict=True):
            order = np.argsort(-line, kind="stable")[: max(top, 1)]
            seen = [f"{_shown(columns[s])} {line[s]:.2f}" for i, s in enumerate(order) if i == 0 or line[s] >= 0.01]
            lines.append([_shown(row), *seen])
        widths = [
            max(text_width(line[i]) for line in lines if i < len(line)) for i in range(max(map(len, lines), default=0))
        ]
        return "\n".join("  ".join(map(_pad, line, widths)).rstrip() for line in lines)

    def heatmap(
        self,
        width: int | None = None,
        colour: bool | None = None,
        kind: str | None = None,
        layer: int | None = None,
        head: int | None = None,
    ) -> str:
        """The weights as a picture for the terminal: target tokens down, source tokens across.

        width: columns to fill, by default the terminal's; a wider map continues below. colour: percentages on blue
        (256-colour escapes), else shades; by default colour on a terminal unless the environment says NO_COLOR.
        """
        weights = self.to_numpy(kind, layer, head)
        rows, columns = ([_shown(token) for token in tokens] for tokens in self.labels(kind))
        colour = _has_colour() if colour is None else colour
        width = shutil.get_terminal_size((100, 24)).columns if width is None else width
        stub = max(map(text_width, rows), default=0) + 1
        across = [max(text_width(token), 3) + 1 for token in columns]
        upright = stub + sum(across) > width
        cells = [4 if _width_tallest(columns) > 1 else 3] * len(columns) if upright else across
        blocks = []
        for first, last in _panels(cells, max(width - stub, 1)):
            names, spans = columns[first:last], cells[first:last]
            header = _upright(names, spans) if upright else ["".join(map(_centre, names, spans))]
            lines = [" " * stub + line for line in header]
            for row, line in zip(rows, weights[:, first:last], strict=True):
                paint = _painted if colour else _shaded
                lines.append(_pad(row, stub) + "".join(map(paint, line, spans)))
            blocks.append("\n".join(line.rstrip() for line in lines))
        legend = "" if colour else "\n" + _legend()
        return "\n\n".join(blocks) + legend

    def plot(
        self,
        file: str | Path | None = None,
        kind: str | None = None,
        layer: int | None = None,
        head: int | None = None,
        *,
        title: str | None = None,
        numbers: bool | None = None,
        dpi: int = 150,
    ) -> Figure:
        """A matplotlib Figure of the weights, written to `file` in the format of its suffix (.png, .svg, .pdf).

        numbers: write the weights into the cells; by default where a cell is large enough. Needs no display.
        Raises OptionError for an unknown suffix or where matplotlib is not installed, OSError for an unwritable file.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise OptionError('plotting needs the package matplotlib: pip install "fastattn[plot]"') from None
        weights = self.to_numpy(kind, layer, head)
        rows, columns = ([_shown(token) for token in tokens] for tokens in self.labels(kind))
        cell = min(0.5, 15.0 / max(len(rows), len(columns), 1))  # inches
        high, wide = max(len(rows), 1) * cell, max(len(columns), 1) * cell
        longest = (max(map(text_width, labels), default=1) * 0.09 for labels in (columns, rows))
        above, left = (min(inches, 2.5) + 0.7 for inches in longest)
        figure = Figure(figsize=(wide + left + 0.9, high + above + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        if weights.size:
            _draw(axes, weights, rows, columns, cell, numbers)
            axes.set_xlabel("decoder tokens so far" if kind == "self" else "source tokens", labelpad=8)
            axes.set_ylabel("source tokens" if kind == "encoder" else "target tokens", labelpad=8)
        else:  # the model ended at once
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no tokens", ha="center", va="center")
        if title:
            across = max(24, round((wide + left) * 11))  # characters that fit above the picture
            axes.set_title(textwrap.fill(_shown(title, longest=None), across), parse_math=False, pad=10)
        if file is not None:
            _save(figure, Path(file), dpi)
        return figure

    def _repr_html_(self) -> str:
        """A table with shaded cells for notebooks; it brings its own colours, so it reads on light and dark pages."""
        weights = self.to_numpy()
        rows, columns = ([html.escape(_shown(token)) for token in tokens] for tokens in self.labels())
        if weights.size > LARGEST_HTML:
            return f"<pre>{html.escape(repr(self))}: {len(rows)} × {len(columns)} tokens, see .plot()</pre>"
        head = "".join(f'<th style="{_HTML_TH};text-align:center">{token}</th>' for token in columns)
        body = "".join(
            f'<tr><th style="{_HTML_TH};text-align:right">{row}</th>{"".join(map(_html_cell, line))}</tr>'
            for row, line in zip(rows, weights, strict=True)
        )
        return (
            '<table style="border-collapse:collapse;background:#fff;color:#111;font-size:90%">'
            f'<tr><th style="{_HTML_TH}"></th>{head}</tr>{body}</table>'
        )

    def _main(self) -> str:
        """The kind to show when none is named: the first there is."""
        return next(iter(self.kinds), "cross")


# --- the terminal -----------------------------------------------------------------------------------------------------


def _has_colour() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and sys.stdout is not None and sys.stdout.isatty()


def _shown(token: str, longest: int | None = LONGEST_LABEL) -> str:
    """A token as one printable label: control characters escaped, blanks made visible, long ones cut."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in token)
    text = text if text.strip() else "␣" * max(len(text), 1)
    while longest is not None and text_width(text) > longest:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def text_width(text: str) -> int:
    """Columns a text takes in a terminal: two for East Asian wide characters, none for combining ones."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - text_width(text))


def _centre(text: str, width: int) -> str:
    """Centred with one column kept free on the right, so that neighbours do not touch."""
    spare = max(width - text_width(text), 0)
    left = spare // 2
    return " " * left + text + " " * (spare - left)


def _panels(cells: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Cuts the columns into runs that fit the width, one column at least."""
    runs, first, used = [], 0, 0
    for i, cell in enumerate(cells):
        if i > first and used + cell > width:
            runs.append((first, i))
            first, used = i, 0
        used += cell
    return [*runs, (first, len(cells))]


def _width_tallest(tokens: Sequence[str]) -> int:
    return max((text_width(c) for token in tokens for c in token), default=1)


def _upright(tokens: Sequence[str], cells: Sequence[int]) -> list[str]:
    """Tokens written downwards, ending on the same line: a header for narrow columns."""
    letters = [_graphemes(token) for token in tokens]
    height = max(map(len, letters), default=0)
    columns = [[""] * (height - len(token)) + token for token in letters]
    return [
        "".join(_centre(column[i], cell) for column, cell in zip(columns, cells, strict=True)) for i in range(height)
    ]


def _graphemes(text: str) -> list[str]:
    """The characters of a text with the combining ones left on their base."""
    parts: list[str] = []
    for c in text:
        if parts and text_width(c) == 0:
            parts[-1] += c
        else:
            parts.append(c)
    return parts


def _shaded(weight: float, width: int) -> str:
    shade = next((mark for start, mark in SHADES if weight >= start), " ")
    return shade * (width - 1) + " "


def _painted(weight: float, width: int) -> str:
    step = round(min(max(float(weight), 0.0), 1.0) * (len(BLUES) - 1))
    ink = 231 if step >= FIRST_DARK else 16
    return f"\x1b[48;5;{BLUES[step]}m\x1b[38;5;{ink}m{_centre(f'{weight * 100:.0f}', width)}\x1b[0m"


def _legend() -> str:
    return "  ".join(f"{mark} from {start:.2f}" for start, mark in reversed(SHADES) if start)


# --- the picture ------------------------------------------------------------------------------------------------------


def _draw(
    axes: Axes, weights: FloatArray, rows: list[str], columns: list[str], cell: float, numbers: bool | None
) -> None:
    """Cells, tick labels and colour bar. cell: the side of a cell in inches; the lettering follows it."""
    top = max(float(weights.max(initial=0.0)), 1e-6)
    image = axes.imshow(weights, cmap="Blues", vmin=0.0, vmax=top, aspect="equal", interpolation="nearest")
    size = float(np.clip(cell * 72 * 0.55, 5.5, 11.0))  # points
    every = max(1, round(size * 1.2 / 72 / cell + 0.49))  # lettering taller than a cell names only some of them
    fonts = _fonts()
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    fits = all(text_width(token) * size * 0.62 / 72 < cell * 0.95 for token in columns)
    turn: dict[str, Any] = {"rotation": 0 if fits else 90, "ha": "center"}
    if not fits and cell >= 0.3:  # slanted where there is room
        turn = {"rotation": 55, "ha": "left", "rotation_mode": "anchor"}
    for axis, tokens, style in ((axes.xaxis, columns, turn), (axes.yaxis, rows, {})):
        axis.set_ticks(
            range(0, len(tokens), every), tokens[::every], fontsize=size, family=fonts, parse_math=False, **style
        )
    axes.tick_params(length=0, pad=4)
    axes.spines[:].set_visible(False)
    if cell >= 0.15:  # thin white lines between the cells
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.0)
        axes.tick_params(which="minor", length=0)
    if cell >= 0.4 if numbers is None else numbers:
        for (t, s), weight in np.ndenumerate(weights):
            if weight >= 0.005:
                ink = "white" if weight > 0.52 * top else "#333333"
                axes.text(s, t, f"{weight:.2f}", ha="center", va="center", fontsize=size * 0.75, color=ink)
    wide = len(columns) * cell
    bar = axes.inset_axes((1 + 0.15 / wide, 0.0, 0.14 / wide, 1.0))
    colours = axes.figure.colorbar(image, cax=bar)
    colours.outline.set_visible(False)
    bar.tick_params(length=2, labelsize=8)
    bar.locator_params(axis="y", nbins=min(5, max(1, round(len(rows) * cell / 0.4))))
    bar.set_ylabel("weight", fontsize=9)


def _fonts() -> list[str]:
    """Matplotlib's own font, then those installed that letter what it cannot."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    wanted = ["Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei", "Noto Sans Arabic"]
    return ["DejaVu Sans", *(name for name in wanted if name in installed)]


def _save(figure: Figure, file: Path, dpi: int) -> None:
    known = sorted(figure.canvas.get_supported_filetypes())
    suffix = file.suffix.lower().lstrip(".")
    if suffix not in known:
        raise OptionError(f"{file}: cannot draw the format {suffix or '(none)'!r}, expected one of {', '.join(known)}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(file, format=suffix, dpi=dpi, bbox_inches="tight", pad_inches=0.15)
    if any("missing from font" in str(warning.message) for warning in caught):  # one per glyph is too many
        warnings.warn(f"{file}: no installed font has every character, some are boxes", stacklevel=3)


# --- the notebook -----------------------------------------------------------------------------------------------------

_HTML_TH = "background:#fff;color:#111;font-weight:normal;padding:2px 6px;border:none"


def _html_cell(weight: float) -> str:
    share = min(max(float(weight), 0.0), 1.0)
    red, green, blue = (round(255 + (ink - 255) * share) for ink in (8, 48, 107))
    ink = "#fff" if share > 0.5 else "#111"
    style = f"background:rgb({red},{green},{blue});color:{ink};padding:2px 6px;border:1px solid #fff;text-align:center"
    return f'<td style="{style}" title="{weight:.4f}">{weight:.2f}</td>'
