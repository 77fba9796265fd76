"""Edit a search space, watch a study and explore its surrogate model in JupyterLab.

- `space_editor`: `SpaceEditor`, with the rows of `editor_row`, which show the text and mistakes
  of `editor_state`, and below them the HTML of `editor_summary`.
- `study_monitor`: `StudyMonitor`; what it says of a study is in `monitor_summary`, and
  `trial_view` shows the trials on the page, by `trial_view.js`, and `trial_actions` explains,
  copies and annotates the one that is chosen.
- `surrogate_explorer`: `SurrogateExplorer`.
- `study_comparison`: `StudyComparison`; its figure and tables are in `comparison_summary`.
- `base`: fields, buttons and figures that these share.
- `front_end`: what is shown with and without a kernel, locking, escaping and tables. `page.js`
  names the handles of sliders and moves the keyboard's focus.
"""
