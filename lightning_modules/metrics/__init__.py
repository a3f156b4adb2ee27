"""What is judged: reconstructions, retrieval, errors and coverage of predictions."""
