r"""Gathers what a machine with a GPU and without a network lacks, as wheels that it can install.

    python benchmarks/wheels.py --output wheels              # it has torch, and nothing else
    python3 -m pip list --format=freeze > there.txt          # there, if anybody can be asked
    python benchmarks/wheels.py --output wheels --have there.txt    # only what it lacks

    # There, in the repository's root (docs/speed.md):
    python3 -m venv --system-site-packages .venv-gpu
    .venv-gpu/bin/pip install --no-index --no-deps wheels/*.whl
    make test-gpu bench-gpu GPU_PYTHON=.venv-gpu/bin/python

torch stays what that machine has: pip resolves against an empty stand-in of its version, so that
nothing of CUDA is fetched. What torch itself brings is left out too. The last lines say how many
files there are, their size, which requirement the machine's own packages must meet, and what is
still missing, if anything is; then the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

ROOT = Path(__file__).parents[1]
#: `make test-gpu` runs in pytest, several at once, since most of them compile; the rest of the
#: development extra is not needed there.
TESTS = ("pytest>=8", "pytest-xdist>=3.6")
#: Published as source alone: built here, since pip must not build for another Python. Pure Python.
SOURCE_ONLY = ("antlr4-python3-runtime==4.9.3",)
#: What torch's own wheel requires (METADATA of 2.11), so that it is there.
WITH_TORCH = frozenset(
    {"torch", "triton", "filelock", "typing-extensions", "setuptools", "sympy", "mpmath"}
    | {"networkx", "jinja2", "markupsafe", "fsspec"}
)
#: pip matches these exactly; from the newest glibc that the wheels of our requirements name.
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(34, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
)


def stand_in(folder: Path, name: str, version: str) -> None:
    """An empty wheel of a package, with a version that no index has."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def pip(*words: str) -> None:
    """Run pip of this Python, without constraints that are meant for this machine's torch."""
    environment = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
    subprocess.run(
        [sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check"],
        check=True,
        env=environment,
    )


def requirements_of(wheel: Path) -> list[Requirement]:
    """What a wheel requires, as its METADATA says."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def there(path: Path | None) -> dict[str, Version | None]:
    """Packages that the machine has: lines `name==version`, or names alone."""
    found: dict[str, Version | None] = {}
    for line in path.read_text().splitlines() if path else ():
        name, _, version = line.split("#")[0].split("@")[0].strip().partition("==")
        if name:
            found[canonicalize_name(name)] = Version(version) if version else None
    return found


def gather(folder: Path, torch: str, python: str, requirements: list[str]) -> list[Path]:
    """Resolve and download; everything that is needed, the stand-in included."""
    local, fetched = folder / "local", folder / "fetched"
    local.mkdir()
    version = f"{torch}+there"
    stand_in(local, "torch", version)
    pip("wheel", "--no-deps", "--wheel-dir", str(local), *SOURCE_ONLY)
    constraints = folder / "constraints.txt"
    constraints.write_text(f"torch=={version}\n")
    tag = "cp" + python.replace(".", "")
    where = [f"--platform={platform}" for platform in PLATFORMS]
    abis = [f"--abi={abi}" for abi in (tag, "abi3", "none")]
    pip(
        "download",
        f"--dest={fetched}",
        f"--find-links={local}",
        f"--constraint={constraints}",
        "--only-binary=:all:",
        f"--python-version={python}",
        "--implementation=cp",
        *abis,
        *where,
        *requirements,
    )
    return sorted(fetched.glob("*.whl"))


def check(
    kept: list[Path],
    have: dict[str, Version | None],
    python: str,
    requirements: list[str],
) -> tuple[list[str], list[str]]:
    """What the machine's own packages must meet, and what is missing, by the wheels' own words."""
    major, minor = (int(part) for part in python.split("."))
    fits = {
        *cpython_tags((major, minor), platforms=PLATFORMS),
        *compatible_tags((major, minor), f"cp{major}{minor}", PLATFORMS),
    }
    versions: dict[str, Version] = {}
    missing = []
    for wheel in kept:
        name, version, _, tags = parse_wheel_filename(wheel.name)
        versions[name] = version
        if not tags & fits:
            missing.append(f"{wheel.name}: not for Python {python} on Linux x86_64")
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "extra": "",
    }
    asked = [(Requirement(line), "xxact") for line in requirements]
    asked += [(need, wheel.name) for wheel in kept for need in requirements_of(wheel)]
    needs_there: dict[str, SpecifierSet] = {}
    for need, by in asked:
        if need.marker is not None and not need.marker.evaluate(environment):
            continue
        name = canonicalize_name(need.name)
        if name in versions:
            if not need.specifier.contains(versions[name], prereleases=True):
                missing.append(f"{need} ({by}): {versions[name]} was fetched")
        elif name in have or name in WITH_TORCH:
            version = have.get(name)
            if version is None:
                needs_there[name] = needs_there.get(name, SpecifierSet()) & need.specifier
            elif not need.specifier.contains(version, prereleases=True):
                missing.append(f"{need} ({by}): {version} is there")
        else:
            missing.append(f"{need} ({by}): nowhere")
    return sorted(f"{name}{specifier}" for name, specifier in needs_there.items()), missing


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the wheels")
    parser.add_argument("--have", type=Path, help="what the machine has: name==version a line")
    parser.add_argument("--torch", default="2.11.0", help="its version there")
    parser.add_argument("--python", default="3.12", help="of the machine")
    parser.add_argument("--also", nargs="*", default=[], help="further requirements, such as timm")
    args = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *TESTS, *args.also]
    have = there(args.have)
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fetched = gather(Path(folder), args.torch, args.python, requirements)
        asked: dict[str, list[Requirement]] = {}
        for need in [Requirement(line) for line in requirements] + [
            need for wheel in fetched for need in requirements_of(wheel)
        ]:
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                asked.setdefault(canonicalize_name(need.name), []).append(need)
        kept = []
        for wheel in fetched:
            name = parse_wheel_filename(wheel.name)[0]
            version = have.get(name)
            suits = version is None or all(
                need.specifier.contains(version, prereleases=True) for need in asked.get(name, [])
            )
            if name in WITH_TORCH or name.startswith("nvidia-") or (name in have and suits):
                continue
            have.pop(name, None)
            kept.append(Path(shutil.copy(wheel, args.output)))
    needs_there, missing = check(kept, have, args.python, requirements)
    size = sum(wheel.stat().st_size for wheel in kept) / 2**20
    for wheel in sorted(kept, key=lambda path: -path.stat().st_size):
        print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}")
    print(f"{len(kept)} wheels, {size:.0f} MiB, in {args.output}")
    if needs_there:
        print("the machine's own packages must be " + "; ".join(needs_there))
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
