"""A scan and a composition to everything that the models and the library say of them.

Knows nothing of pages: from Python,

    answerer = Answerer(Predictor("models/properties", aligned="models/aligned"))
    answer = answerer(Question("MnO", "MnO.xy", Path("MnO.xy").read_bytes(), "CuKa"))
    print(answer.prediction["density_predicted"], answer.error)
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from datamodules.composition import Stated, parse_composition
from datamodules.io.arguments import printable
from datamodules.io.mistakes import told
from datamodules.measured import ConvertedPattern, Options, Scan, convert, read_scan
from datamodules.measured.wavelength import wavelength_of_row
from lightning_modules.inference.neighbours import ElementFilter, Library
from lightning_modules.inference.prediction import Predictor
from lightning_modules.inference.rows import ERROR, NEIGHBOURS
from lightning_modules.retrieval import Answer as Found
from lightning_modules.retrieval import Retriever

#: Characters of a composition or a wavelength; a longer one is neither.
LONGEST = 500
_NAME = 100
T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """What a laboratory gives.

    Attributes:
        composition: A formula, or whatever `xxact predict --formula` takes; may be empty.
        name: Of the scan's file; its suffix says how it is read.
        content: The file's bytes; None where there is no scan.
        wavelength: Å or a name such as CuKa; empty for the file's own.
        elements_known: Whether known materials may have no other elements than the composition.
    """

    composition: str = ""
    name: str = ""
    content: bytes | None = None
    wavelength: str = ""
    elements_known: bool = True


@dataclass
class Answer:
    """What is said of a question.

    Attributes:
        question: The question.
        scan: The scan as it was read; None without one.
        converted: The scan as the model saw it; None without one, or where `error` says why.
        prediction: A row as `Predictor` gives it; its `error` says why there is none.
        found: What fits the scan line by line; None without a library or a scan.
        found_error: Why nothing could be compared.
        error: Why nothing at all can be answered, in one line; "" where something can.
    """

    question: Question
    scan: Scan | None = None
    converted: ConvertedPattern | None = None
    prediction: dict[str, Any] = field(default_factory=dict)
    found: Found | None = None
    found_error: str = ""
    error: str = ""

    @property
    def nearest(self) -> list[dict[str, Any]]:
        """The known materials that the aligned model finds most similar, best first."""
        return self.prediction.get(NEIGHBOURS) or []


class Answerer:
    """Answers questions one after the other.

    Args:
        predictor: Predicts properties, and judges contradictions if it has an aligned model.
        retriever: Compares scans with a library; None where there is none.
        options: How scans are converted, as the predictor's.
        axis: What the first column of text files is: "two_theta" or "q".
        top: Known materials that are told.
    """

    def __init__(
        self,
        predictor: Predictor,
        retriever: Retriever | None = None,
        options: Options | None = None,
        axis: str = "two_theta",
        top: int = 5,
    ) -> None:
        self.predictor, self.retriever = predictor, retriever
        self.axis, self.top = axis, top
        self._options = options or Options()

    @property
    def library(self) -> Library | None:
        """What is searched; None where there is no library."""
        return None if self.retriever is None else self.retriever.library

    def read(self, question: Question) -> Scan | None:
        """The scan of a question as it lies in its file; None without one.

        Raises:
            ValueError: if it cannot be read.
        """
        if question.content is None:
            return None
        return _with_file(question, lambda path: read_scan(path, self.axis))

    def __call__(self, question: Question) -> Answer:
        """What is said of a question; whatever is wrong with it stands in the answer.

        Raises:
            Exception: only for a bug of ours.
        """
        answer = Answer(question)
        answer.error = _reason(lambda: self._answer(question, answer))
        return answer

    def _answer(self, question: Question, answer: Answer) -> None:
        for text, what in (
            (question.composition, "the composition"),
            (question.wavelength, "the wavelength"),
        ):
            if len(text) > LONGEST:
                raise ValueError(f"{what} has {len(text)} characters; give at most {LONGEST}")
        options = self._options
        if wavelength := wavelength_of_row(question.wavelength):
            options = replace(options, wavelength=wavelength)
        answer.scan = self.read(question)
        if answer.scan is None and not question.composition.strip():
            raise ValueError("nothing is given: drop a scan, give a composition, or both")
        if answer.scan is not None:
            grid, seen = self.predictor.task.grid, self.predictor.converting
            try:
                answer.converted = convert(
                    answer.scan, grid, replace(seen, wavelength=options.wavelength)
                )
            except ValueError as error:
                raise ValueError(f"{_name_of(question)}: {error}") from None
        answer.prediction = self._predict(question)
        if answer.scan is not None and self.retriever is not None:
            answer.found_error = _reason(lambda: self._retrieve(question, options, answer))

    def _predict(self, question: Question) -> dict[str, Any]:
        given = {"formula": question.composition, "wavelength": question.wavelength}
        if question.content is None:
            return self.predictor([given])[0]

        def ask(path: Path) -> dict[str, Any]:
            row = self.predictor([given | {"pattern": str(path)}])[0]
            row[ERROR] = row[ERROR].replace(f"{path.parent}/", "")
            return row | {"pattern": path.name}

        return _with_file(question, ask)

    def _retrieve(self, question: Question, options: Options, answer: Answer) -> None:
        """Fill in what fits the scan line by line."""
        assert self.retriever is not None
        assert answer.scan is not None
        allowed = elements_of(question.composition) if question.elements_known else ()
        chosen = ElementFilter(allowed) if allowed else None
        answer.found = self.retriever(answer.scan, options, self.top, chosen)


def elements_of(composition: str) -> tuple[int, ...]:
    """Atomic numbers of a composition, ascending; none of an empty one.

    Raises:
        ValueError: if it is no composition.
    """
    if not composition.strip():
        return ()
    known = parse_composition(composition)
    elements = known.elements if isinstance(known, Stated) else known[0].tolist()
    return tuple(sorted(elements))


def _reason(work: Callable[[], None]) -> str:
    """Why a piece of work could not be done, in one line; "" where it was.

    Raises:
        Exception: if it is a bug of ours.
    """
    try:
        work()
    except Exception as error:
        line = told(error)
        if line is None:
            raise
        return line
    return ""


def _name_of(question: Question) -> str:
    """The scan's name without folders, as it may be written and shown."""
    name = printable(PureWindowsPath(question.name).name, 10_000).replace("\\", "_")
    stem, dot, suffix = name.rpartition(".")
    return f"{stem[: _NAME - len(suffix[:20])]}{dot}{suffix[:20]}".strip() or "scan"


def _with_file(question: Question, work: Callable[[Path], T]) -> T:
    """What work makes of the scan as a file, which is gone afterwards.

    Raises:
        ValueError: as the work does; messages name the file, not its folder.
    """
    with tempfile.TemporaryDirectory(prefix="xxact-scan-") as folder:
        path = Path(folder) / _name_of(question)
        path.write_bytes(question.content or b"")
        try:
            return work(path)
        except ValueError as error:
            if told(error) is None:
                raise
            raise ValueError(str(error).replace(f"{folder}/", "")) from None
