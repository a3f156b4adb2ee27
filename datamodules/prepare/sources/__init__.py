"""Where crystal structures come from, a module a source. `source.py` is the interface."""
