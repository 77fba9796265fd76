"""The search space: parameters, conditions and their form as YAML."""
