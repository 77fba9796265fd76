"""Search spaces: parameters, conditions and their form as YAML.

- `search_space`: `SearchSpace`, presets, configurations, grids
- `parameters`: `FloatParameter`, `IntParameter`, `ChoiceParameter`; `parameter_base`: their rules
- `values`: what a value may be, and how it is read
- `grid`: grids, and their size without building them
- `yaml_io`: YAML in and out, and the comments in it
"""
