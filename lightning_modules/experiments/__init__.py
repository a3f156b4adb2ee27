"""Many runs: sweeps, studies, their reports, and assessments of one checkpoint."""
