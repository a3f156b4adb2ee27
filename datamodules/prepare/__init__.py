"""Offline preparation of a store from crystal structures: the only part that imports pymatgen."""
