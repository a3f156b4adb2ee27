"""The options of a conversion on a command line, the same in every command."""

from __future__ import annotations

import argparse

from datamodules.measured.conversion import Options
from datamodules.measured.wavelength import parse_wavelength


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of measured patterns to a command."""
    group = parser.add_argument_group("measured patterns")
    group.add_argument(
        "--wavelength",
        metavar="Å|CuKa",
        help="in place of the file's: Å, or a name such as CuKa, CoKa, MoKa (doublet), CuKa1",
    )
    group.add_argument(
        "--polarization",
        type=float,
        default=1.0,
        metavar="P",
        help="1 unpolarised tube (default), cos²2θ of a monochromator (graphite at Cu 0.80), "
        "0 synchrotron",
    )
    group.add_argument(
        "--strip-kalpha2", action="store_true", help="take Kα2 off (Rachinger); noise adds up"
    )
    group.add_argument(
        "--keep-background", action="store_true", help="the background was taken off already"
    )
    group.add_argument(
        "--zero", type=float, default=0.0, metavar="DEGREES", help="2θ of the instrument's zero"
    )
    group.add_argument(
        "--axis",
        choices=("two_theta", "q"),
        default="two_theta",
        help="what the first column of text files is; q in Å⁻¹",
    )


def options_from(arguments: argparse.Namespace, fwhm: float | None = None) -> Options:
    """The options given.

    Args:
        arguments: Of a parser with `add_options`.
        fwhm: Width of the model's lines, degrees.

    Raises:
        ValueError: if one is impossible.
    """
    return Options(
        wavelength=parse_wavelength(arguments.wavelength) if arguments.wavelength else None,
        polarization=arguments.polarization,
        strip_kalpha2=arguments.strip_kalpha2,
        background=not arguments.keep_background,
        fwhm=fwhm,
        zero=arguments.zero,
    )
