"""Bar charts as the geometry of an SVG: one bar a day, drawn by the server. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

STEP, WIDTH, LEFT = 24, 18, 4
"""Pixels from bar to bar, of a bar, and before the first."""
TOP, BASE = 22, 130
"""Pixels from above: the tip of the tallest bar, and the foot of all."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A day. `marked` is the height of the part of the bar that stands out, at its foot."""

    x: int
    y: float
    height: float
    marked: float
    text: str
    label: str
    """The day below the bar; empty under every other one, for which there is no room."""


@dataclass(frozen=True, slots=True)
class Chart:
    """`highest` is the value of the tallest bar, in words; `summary` says for a screen reader what the chart shows."""

    title: str
    width: int
    highest: str
    summary: str
    bars: Sequence[Bar]


def chart_of(
    title: str,
    days: Sequence[str],
    values: Sequence[float],
    in_words: Callable[[float], str],
    marked: Sequence[float] = (),
) -> Chart:
    """Return a chart of one value a day. `marked` are the parts of the values that stand out."""
    most = max(values, default=0)
    scale = (BASE - TOP) / (most or 1)
    last = len(days) - 1
    bars = [
        Bar(
            x=LEFT + number * STEP,
            y=round(BASE - value * scale, 1),
            height=round(value * scale, 1),
            marked=round((marked[number] if marked else 0) * scale, 1),
            text=f"{day}: {in_words(value)}",
            label=day[5:] if (last - number) % 2 == 0 else "",
        )
        for number, (day, value) in enumerate(zip(days, values, strict=True))
    ]
    highest = in_words(most)
    when = f", most on {days[values.index(most)]}: {highest}" if most else ": none"
    return Chart(title, 2 * LEFT + STEP * len(days), highest, f"{title} by day{when}", bars)
