"""Studies: resumable sets of runs over seeds and conditions. `main.py` is `xxact study`."""
