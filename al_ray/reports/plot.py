"""A run as one picture, ``progress.png``: what the table of metrics has panels for, by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from al_ray.errors import Problem, UserError
from al_ray.machines.whole import whole_file_of_run
from al_ray.recipe import Recipe
from al_ray.recipe.schedule import stage_spans, total_steps
from al_ray.reports import jsonl_sink
from al_ray.reports.names import METRICS, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_NAME: Final = "progress.png"
_BLUE: Final = "#1f5fa8"
_ORANGE: Final = "#c2571a"
_GREY: Final = "#555555"
_SMOOTH_FROM: Final = 20
"""Points of a curve from which a moving mean is drawn over it."""
STYLE: Final = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": _GREY,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
}


def plot_run(recipe: Recipe, folder: Path) -> Path:
    """Draw the run in ``folder``. Raises ``UserError`` if nothing that it draws has been logged."""
    lines = jsonl_sink.read(folder)
    drawn = [(m.panel, _series(lines, m.key, m.panel.error)) for m in METRICS if m.panel is not None]
    panels = [(panel, series) for panel, series in drawn if series]
    if not panels:
        cure = "no reward and no accuracy has been logged yet; plot it after its first evaluation or step"
        raise UserError(Problem("plot", str(folder / jsonl_sink.FILE_NAME), cure))

    # Slow to import, and needed by nothing else.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 2.6 * len(panels)), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (panel, series) in zip(rows, panels, strict=True):
            draw = _draw_points if panel.error else _draw_curve
            draw(axes, panel, series)
            _shade_stages(axes, recipe, labelled=axes is rows[0])
        rows[-1].set_xlabel("step")
        end = total_steps(recipe)
        rows[-1].set_xlim(-0.03 * end, 1.03 * end)
        rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(f"{recipe.name}  ({folder.name})", fontsize=12, fontweight="bold", x=0.01, ha="left")
        path = folder / FILE_NAME
        with whole_file_of_run(path) as file:
            figure.savefig(file, format="png", dpi=150)
    return path


def _series(lines: Sequence[dict[str, Any]], key: str, error: str = "") -> list[tuple[int, float, float]]:
    """Step, value and error by ascending step; of several lines of a step the last one counts."""
    last = {line["step"]: line for line in lines if line.get(key) is not None}
    return [(step, last[step][key], last[step].get(error) or 0.0) for step in sorted(last)]


def _draw_points(axes: Axes, panel: Panel, series: Sequence[tuple[int, float, float]]) -> None:
    """Each with its error and its number."""
    steps, values, errors = zip(*series, strict=True)
    axes.errorbar(steps, values, errors, color=_BLUE, marker="o", markersize=6, linewidth=1.2,
                  elinewidth=1.4, capsize=4, clip_on=False, zorder=3)  # fmt: skip
    for step, value, error in series:
        axes.annotate(f"{value:.3f}", (step, value + error), xytext=(0, 5), textcoords="offset points",
                      ha="center", color=_BLUE, fontsize=9)  # fmt: skip
    axes.set_ylabel(f"{panel.label}\n(± 1 standard error)")
    axes.margins(y=0.15)


def _draw_curve(axes: Axes, panel: Panel, series: Sequence[tuple[int, float, float]]) -> None:
    """A value a step, and their moving mean where there are many."""
    steps, values, _ = zip(*series, strict=True)
    smooth = len(values) >= _SMOOTH_FROM
    axes.plot(steps, values, color=_ORANGE, linewidth=1.2, alpha=0.35 if smooth else 1.0,
              marker="" if smooth else ".")  # fmt: skip
    if smooth:
        window = len(values) // 10 | 1
        axes.plot(steps, _moving_mean(values, window), color=_ORANGE, linewidth=2.0,
                  label=f"mean of {window} steps")  # fmt: skip
        axes.legend(frameon=False, loc="lower right")
    axes.set_ylabel(panel.label)


def _moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Centred, over fewer values at the ends."""
    half = window // 2
    around = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in around]


def _shade_stages(axes: Axes, recipe: Recipe, *, labelled: bool) -> None:
    """Every other stage has a grey ground; names stand above the top panel."""
    for span in stage_spans(recipe):
        if span.index % 2:
            axes.axvspan(span.begin, span.end, color="#000000", alpha=0.045, linewidth=0)
        if labelled:
            axes.text((span.begin + span.end) / 2, 1.02, span.stage.algorithm, ha="center", va="bottom",
                      transform=axes.get_xaxis_transform(), color=_GREY, fontsize=10)  # fmt: skip
