"""What is it? Known materials whose patterns fit a scan, best first."""

from lightning_modules.retrieval.matching import Freedom
from lightning_modules.retrieval.retriever import Answer, Match, Phase, Retriever, retrieve

__all__ = ["Answer", "Freedom", "Match", "Phase", "Retriever", "retrieve"]
