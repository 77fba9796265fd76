"""Edit a space, watch a study and question its surrogate in JupyterLab."""
