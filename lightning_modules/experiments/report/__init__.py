"""Figures, tables and numbers from finished runs. `main.py` is `xxact report`."""
