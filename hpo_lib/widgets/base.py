"""Share fields, buttons and figures among the widgets; without a page, only the figure shows."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import cached_property
from html import escape
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import optuna
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from hpo_lib.exceptions import StudyError
from hpo_lib.plots.style import AxesArray, figure_of
from hpo_lib.progress import is_watched
from hpo_lib.study.background import background_study
from hpo_lib.study.catalog import study_storage
from hpo_lib.trials import StudyRecord, own_trials, study_name
from hpo_lib.widgets.front_end import PANEL, Displayed, Page, in_turn

_PIXELS_PER_INCH = 100


def make_lock(text: str, *, locked: bool) -> Any:
    """Return a button with a padlock, which is pressed while something is held.

    Args:
        text: what is held; its name for screen readers.
        locked: whether it is pressed at first.
    """
    lock = ipywidgets.ToggleButton(
        locked,
        tooltip=text,
        icon="lock",
        layout={
            "width": "27px",
            "height": "26px",
            "padding": "0",
            "margin": "1px",
            "flex": "none",
        },
    )
    lock.add_class("hpo-lock")
    return lock


def make_button(
    text: str,
    action: Callable[[], object],
    refusal: str,
    tell: Callable[[str], None],
    width: int = 110,
    **settings: Any,
) -> ipywidgets.Button:
    """Return a button; an error of its action is told and not raised.

    Args:
        text: what stands on it.
        action: called on each click.
        refusal: what a message of an error begins with.
        tell: called with that message.
        width: in pixels.
        settings: other arguments of the button.
    """

    @in_turn()
    def on_click(_: object) -> None:
        try:
            action()
        except (OSError, StudyError, ValueError) as error:
            tell(f"{refusal}: {error}")

    button = ipywidgets.Button(
        description=text,
        layout={"width": f"{width}px"},
        **settings,
    )
    button.on_click(on_click)
    return button


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


def describe_going_on(study: optuna.Study, space: str) -> str:
    """Return how a study goes on whose space was changed on the page.

    Args:
        study: the study.
        space: the space as a call names it.
    """
    if background_study(study_name(study), study_storage(study)) is not None:
        return "It runs."

    text = f"Start it in its monitor, or call run_study with {space}"
    n_trials = len(own_trials(study))
    if n_trials >= (StudyRecord.of(study).n_trials or 0):
        text += f", and more than {n_trials} trials, as its budget is spent"
    return f"{text}."


class Panel(Displayed, ipywidgets.VBox):
    """Show controls and a figure on a page, and the figure alone where no page is open.

    Args:
        children: the widgets, top down.
        width: largest width in pixels.
    """

    image: Any

    def __init__(self, children: Sequence[Any], width: int) -> None:
        super().__init__([*children, self.page], layout={"max_width": f"{width}px"})
        self.add_class(PANEL)

    @cached_property
    def page(self) -> Page:
        """Return what the page tells and is told."""
        page = Page()
        page.observe(self._on_change, "ratio")
        return page

    def make_image(self) -> Any:
        """Return an empty image that is never wider than the page."""
        image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        image.add_class("hpo-figure")
        return image

    def show_figure(
        self,
        axes: Axes | AxesArray,
        text: str,
        layout: list[Bbox] | None = None,
    ) -> None:
        """Show a figure as sharp as the screen is.

        Args:
            axes: one or all axes of the figure.
            text: what it shows, for those who cannot see it.
            layout: positions of all axes in an earlier figure of the same kind, which are used
                again, as fitting the axes takes half of the time; an empty list is filled with
                them.
        """
        figure = figure_of(axes)
        figure.set_dpi(_PIXELS_PER_INCH * self.page.ratio)

        # With given positions, matplotlib does not measure all labels first.
        if layout and len(layout) == len(figure.axes):
            figure.set_layout_engine("none")
            for ax, position in zip(figure.axes, layout, strict=True):
                ax.set_position(position)

        # `savefig` would draw the figure twice. The strongest compression takes longer than
        # sending what it saves.
        buffer = io.BytesIO()
        canvas = FigureCanvasAgg(figure)
        canvas.print_png(buffer, pil_kwargs={"compress_level": 1})
        if layout is not None:
            layout[:] = [ax.get_position() for ax in figure.axes]
        plt.close(figure)

        self.page.figure = text
        # The page would stretch an image without a width.
        self.image.width = str(round(figure.get_figwidth() * _PIXELS_PER_INCH))
        self.image.value = buffer.getvalue()
        self.keep_last()

    def redraw(self) -> None:
        """Draw the figure again."""
        raise NotImplementedError

    @in_turn()
    def _on_change(self, _: object) -> None:
        self.redraw()

    def picture(self) -> bytes:
        """Return the figure that is shown now, as PNG."""
        # traitlets keep a memory view of it.
        return bytes(self.image.value)

    def static_html(self) -> str:
        """Return the figure as HTML."""
        png = b64encode(self.picture()).decode()
        if not png:
            return f"{type(self).__name__} without a figure"
        text = escape(self.page.figure)
        attributes = f"class='hpo-figure' alt='{text}' width='{self.image.width}'"
        return f"<img {attributes} src='data:image/png;base64,{png}'>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if is_watched():
            return super()._repr_mimebundle_(**options)

        png = b64encode(self.picture()).decode()
        return {"image/png": png, "text/plain": type(self).__name__}
