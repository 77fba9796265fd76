"""Edit a search space, watch a study and explore its surrogate model in JupyterLab.

- `space_editor`: `SpaceEditor`, with the rows of `editor_row`, which show the text and mistakes
  of `editor_state`, and below them the HTML of `editor_summary`.
- `study_monitor`: `StudyMonitor`; what it says of a study is in `monitor_summary`.
- `surrogate_explorer`: `SurrogateExplorer`.
- `base`: fields, sliders and figures that these three share.
- `front_end`: whether a page is open, locking, escaping and tables.
"""
