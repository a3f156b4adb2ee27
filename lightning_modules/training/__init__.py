"""How a run runs: command line, run folder, data-parallel training, calibration."""
