"""What the page's widgets share: figures as pictures, and a static form where nobody watches."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, cast

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from hpo_lib.plots.style import AxesArray
from hpo_lib.space.search_space import ChoiceParameter, Parameter, Value
from hpo_lib.widgets.front_end import is_watched

_LABEL = {"description_width": "9.5rem"}


def png(drawn: Axes | AxesArray, layout: list[Bbox] | None = None) -> bytes:
    """A figure as a picture for the page; the figure is closed.

    Half of the time would go into fitting the axes: `layout` has where those of a former figure
    of the same kind stood, or is filled with it.
    """
    first = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
    figure, picture = cast(Figure, first.figure), io.BytesIO()
    figure.set_dpi(100)
    if layout and len(layout) == len(figure.axes):
        figure.set_layout_engine("none")
        for ax, box in zip(figure.axes, layout, strict=True):
            ax.set_position(box)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once, where savefig draws twice
    if layout is not None:
        layout[:] = [ax.get_position() for ax in figure.axes]
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(picture, "png", compress_level=1)
    plt.close(figure)
    return picture.getvalue()


def ticks_of(parameter: Parameter, points: int, also: Sequence[Value] = ()) -> list[Any]:
    """(text, value) along a parameter's axis, for sliders: `points` of a range, and `also`."""
    values = parameter.grid_values(points)
    if isinstance(parameter, ChoiceParameter):
        return [(str(value), value) for value in values]
    numbers = sorted({*cast("list[float]", values), *cast("list[float]", list(also))})
    return [(f"{number:.4g}", number) for number in numbers]


def slider(kind: Any, name: str, ticks: list[Any], **options: Any) -> Any:
    """One slider of a column of them, over the texts and values of `ticks`."""
    layout = {"width": "98%"}
    return kind(options=ticks, description=name, style=_LABEL, layout=layout, **options)


class Panel(widgets.VBox):
    """A widget that stands as its figure, `image`, where nobody watches."""

    image: Any

    def picture(self) -> bytes:
        """The figure that is shown now, as PNG."""
        return bytes(self.image.value)  # traitlets keep a view of it

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if is_watched():
            return super()._repr_mimebundle_(**options)
        return {"image/png": b64encode(self.picture()).decode(), "text/plain": type(self).__name__}
