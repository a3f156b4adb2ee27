"""How an answer is told: printed, and drawn."""
