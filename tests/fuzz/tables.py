"""Tables of `xxact predict`: damaged ones, and rows that nobody would write."""

import csv
import io
import random
from collections.abc import Iterator
from pathlib import Path

from lightning_modules import checkpoints
from tests.fuzz._command import outcome_of
from tests.fuzz.mutation import NUMBERS, WORDS, damage

_CHECKPOINT = next((Path(__file__).parents[1] / "checkpoints").glob("*/Regression.ckpt"))
_TARGET = checkpoints.load_task(_CHECKPOINT).constructed_with["targets"][0]
_FORMULAS = (
    "NaCl", "Fe2O3", "CaSO4", "Fe2O" + "9" * 400, "Xx", "(" * 500, "Na" * 3000, "H2O.5", "nan",
)  # fmt: skip
_PATTERNS = (
    "", "x" * 5000, ".", "/dev/zero", "/etc/shadow", "a/b/c.xy", "\0", "t.csv", "~/x.xy", "p.xy",
)  # fmt: skip
_WAVELENGTHS = ("", "CuKa", "1.54", "-1", "CuKa/2", *NUMBERS)


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Half damaged bytes, half sound CSV of odd fields."""
    random_ = random.Random(f"tables {seed}")
    for number in range(n):
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["formula", "pattern", "wavelength", "note"])
        for _ in range(random_.randrange(1, 12)):
            odd = (random_.choice(WORDS), random_.choice(NUMBERS))
            row = [
                random_.choice((*_FORMULAS, *odd)),
                random_.choice((*_PATTERNS, *odd)) if random_.random() < 0.5 else "",
                random_.choice(_WAVELENGTHS) if random_.random() < 0.5 else "",
                random_.choice(WORDS),
            ]
            writer.writerow(row[: random_.randrange(1, 7)] if random_.random() < 0.2 else row)
        content = text.getvalue().encode("utf-8", "surrogatepass")
        yield f"{seed}-{number}.csv", damage(content, random_) if number % 2 else content


def check(path: Path) -> str:
    """Predict it, with a scan beside it."""
    (path.parent / "p.xy").write_text("".join(f"{5 + i * 0.02:.2f} {i % 7}\n" for i in range(2500)))
    output = path.with_suffix(".out")
    output.unlink(missing_ok=True)
    found = outcome_of(
        ["predict", f"--checkpoint={_CHECKPOINT}", f"--input={path}", f"--output={output}",
         "--device=cpu"]
    )  # fmt: skip
    if found == "accepted":
        with output.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            assert bool(row["error"]) != bool(row[f"{_TARGET}_predicted"]), row
    return found
