"""Powder patterns of crystal structures, from Python: docs/simulate.md.

    from datamodules.prepare.simulation import Simulator

    simulator = Simulator(wavelength="CuKa")
    q, intensity = simulator.lines(structure)                            # lines
    y = simulator.profile(structure, two_theta=np.arange(5, 90, 0.02))   # on a grid

Needs neither torch nor Lightning.
"""

from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.crystals.structures import to_crystal
from datamodules.prepare.simulation.simulator import Lines, Simulator

__all__ = ["Crystal", "EntryError", "Lines", "Simulator", "to_crystal"]
