"""Share fields, sliders and figures among the widgets; without a page, only the figure shows."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, cast

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from hpo_lib.plots.style import AxesArray, figure_of
from hpo_lib.progress import is_watched
from hpo_lib.space.parameters import ChoiceParameter, Parameter
from hpo_lib.space.values import Value
from hpo_lib.widgets.front_end import escape_mathjax

SliderOptions = list[tuple[str, Any]]
"""Positions of a slider: the text that is shown, and the value."""

TWO_COLUMNS = {"grid_template_columns": "50% 50%"}
"""Layout of a grid of sliders."""

# One step is a percent of the range.
_GRID_POINTS = 101


def to_png(
    axes: Axes | AxesArray,
    layout: list[Bbox] | None = None,
) -> bytes:
    """Return the figure of some axes as PNG, and close it.

    Args:
        axes: one or all axes of the figure.
        layout: positions of all axes in an earlier figure of the same kind, which are used again,
            as fitting the axes takes half of the time; an empty list is filled with them.
    """
    figure = figure_of(axes)
    figure.set_dpi(100)

    # With given positions, matplotlib does not measure all labels first.
    if layout and len(layout) == len(figure.axes):
        figure.set_layout_engine("none")
        for ax, position in zip(figure.axes, layout, strict=True):
            ax.set_position(position)

    # `savefig` would draw the figure twice. The strongest compression takes longer than sending
    # what it saves.
    buffer = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    canvas.print_png(buffer, pil_kwargs={"compress_level": 1})
    if layout is not None:
        layout[:] = [ax.get_position() for ax in figure.axes]
    plt.close(figure)
    return buffer.getvalue()


def slider_options(
    parameter: Parameter,
    extra: Sequence[Value] = (),
) -> SliderOptions:
    """Return the positions of a parameter's slider.

    Args:
        parameter: a choice has its options, a range 101 points of it.
        extra: values of a range that are positions too.
    """
    # As steps of the prior: evenly in the logarithm where the scale is one.
    values = parameter.grid_values(_GRID_POINTS)
    if isinstance(parameter, ChoiceParameter):
        return [(str(value), value) for value in values]

    numbers = cast("set[float]", {*values, *extra})
    return [(f"{number:.4g}", number) for number in sorted(numbers)]


def make_slider(
    kind: Any,
    name: str,
    options: SliderOptions,
    **settings: Any,
) -> Any:
    """Return a slider of a column of sliders with descriptions of one width.

    Args:
        kind: `ipywidgets.SelectionSlider` or `SelectionRangeSlider`.
        name: the description, shown as it is.
        options: the positions.
        settings: other arguments of `kind`.
    """
    return kind(
        options=options,
        description=escape_mathjax(name),
        style={"description_width": "9.5rem"},
        layout={"width": "98%"},
        **settings,
    )


def make_field(
    kind: Any,
    description: str,
    width: int,
    **settings: Any,
) -> Any:
    """Return a field with its description before it.

    Args:
        kind: a class of ipywidgets.
        description: the text before the field.
        width: pixels of both together.
        settings: other arguments of `kind`.
    """
    return kind(
        description=description,
        style={"description_width": "initial"},
        layout={"width": f"{width}px"},
        **settings,
    )


def make_image() -> Any:
    """Return an empty image that is never wider than the page."""
    return ipywidgets.Image(format="png", layout={"max_width": "100%"})


class Panel(ipywidgets.VBox):
    """Show controls and figures on a page, and `image` alone where no page is open."""

    image: Any

    def picture(self) -> bytes:
        """Return the figure that is shown now, as PNG."""
        # traitlets keep a memory view of it.
        return bytes(self.image.value)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if is_watched():
            return super()._repr_mimebundle_(**options)

        png = b64encode(self.picture()).decode()
        return {"image/png": png, "text/plain": type(self).__name__}
