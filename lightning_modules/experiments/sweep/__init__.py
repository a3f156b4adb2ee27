"""Sweeps over any keys of the command line. `main.py` is `xxact sweep`."""
