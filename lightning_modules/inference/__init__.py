"""What a trained model answers: predictions, their tables, and whether inputs agree."""
