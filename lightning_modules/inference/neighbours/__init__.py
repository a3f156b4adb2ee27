"""Which known materials are near: a library of stores, its vectors in one file, exact search."""

from lightning_modules.inference.neighbours.beside import Nearest
from lightning_modules.inference.neighbours.filters import ElementFilter
from lightning_modules.inference.neighbours.library import Known, Library

__all__ = ["ElementFilter", "Known", "Library", "Nearest"]
