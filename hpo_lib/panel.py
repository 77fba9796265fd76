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
from matplotlib.figure import Figure

from hpo_lib.front_end import is_watched
from hpo_lib.plots_style import AxesArray
from hpo_lib.space import ChoiceParameter, Parameter, Value

LABEL = {"description_width": "9.5rem"}


def png(drawn: Axes | AxesArray) -> bytes:
    """A figure as a picture for the page; the figure is closed."""
    first = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
    figure, picture = cast(Figure, first.figure), io.BytesIO()
    figure.savefig(picture, format="png", dpi=100, pil_kwargs={"compress_level": 1})
    plt.close(figure)
    return picture.getvalue()


def ticks_of(parameter: Parameter, points: int, also: Sequence[Value] = ()) -> list[Any]:
    """(text, value) along a parameter's axis, for sliders: `points` of a range, and `also`."""
    values = parameter.grid_values(points)
    if isinstance(parameter, ChoiceParameter):
        return [(str(value), value) for value in values]
    numbers = sorted({*cast("list[float]", values), *cast("list[float]", list(also))})
    return [(f"{number:.4g}", number) for number in numbers]


class Panel(widgets.VBox):
    """A widget that stands as its static figure where nobody watches."""

    def picture(self) -> bytes:
        """The figure that is shown now, as PNG."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if is_watched():
            return super()._repr_mimebundle_(**options)
        return {"image/png": b64encode(self.picture()).decode(), "text/plain": type(self).__name__}
