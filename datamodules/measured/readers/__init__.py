"""A diffractometer's file to a scan, a module a format. `files.py` chooses."""
