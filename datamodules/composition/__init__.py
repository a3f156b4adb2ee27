"""What is known of a composition: a formula, its elements, or percentages with errors."""

from datamodules.composition.candidates import Candidates, candidates_of
from datamodules.composition.stated import Share, Stated, parse_composition

__all__ = ["Candidates", "Share", "Stated", "candidates_of", "parse_composition"]
