"""An answer as HTML, as tables, and as what a program gets.

Everything that came from a file or a user is escaped; pictures and tables lie in the page itself,
so that nothing of an answer lies on the disk.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from datamodules.io.arguments import printable
from datamodules.measured import Scan
from datamodules.measured.inspection import figure_of as figure_of_scan
from lightning_modules.inference.answers.known import known_table
from lightning_modules.inference.answers.printed import (
    FROM,
    agreement,
    properties_of,
    split_warnings,
)
from lightning_modules.inference.rows import AGREEMENT, CANDIDATES, CONTRADICTION, ERROR, WARNINGS
from lightning_modules.inference.table import cell
from lightning_modules.page.answering import Answer, Answerer, Question
from lightning_modules.retrieval.pictures import figure_of as figure_of_matches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_modules.retrieval import Answer as Found

#: Before anything was asked.
EMPTY = (
    '<div class="x-empty"><p><b>The answer appears here.</b></p>'
    "<p>Drop a scan, give a composition, or both. Both together say most: the composition says "
    "what is there, the scan how it is arranged.</p></div>"
)
#: Labels of a known material that fit beside its name; the table that is downloaded has all.
_LABELS_SHOWN = 3


def error_box(message: str) -> str:
    """An error in the same words as on the command line."""
    return f'<div class="x-error" role="alert"><b>error:</b> {_text(message)}</div>'


def read_note(scan: Scan | None, question: Question, wavelength_given: bool) -> str:
    """What a scan turned out to be, as soon as it was dropped.

    Args:
        scan: As it was read; None without one.
        question: With the scan's name and size.
        wavelength_given: Whether the wavelength is given beside the file.
    """
    if scan is None:
        return ""
    unit = "°" if scan.axis == "two_theta" else " Å⁻¹"
    lines = [
        f"<b>{_text(question.name)}</b>: {_text(scan.format)}, {len(scan.x)} points, "
        f"{scan.x[0]:g}–{scan.x[-1]:g}{unit}"
    ]
    kind = "x-note"
    if scan.wavelength is not None:
        lines.append(f"wavelength {_text(str(scan.wavelength))}")
    elif scan.axis == "two_theta" and not wavelength_given:
        kind = "x-warn"
        lines.append("<b>The file does not say its wavelength: give it below.</b>")
    return f'<div class="{kind}">{"<br>".join(lines)}</div>'


def html_of(answer: Answer, answerer: Answerer) -> str:
    """An answer as the page shows it.

    Args:
        answer: The answer.
        answerer: Who gave it.
    """
    if answer.error:
        return error_box(answer.error)
    parts = [_prediction(answer, answerer), _matches(answer, answerer), _nearest(answer, answerer)]
    if answer.converted is not None:
        title = printable(answer.question.name, 90)
        picture = _picture(figure_of_scan(answer.converted, title), "the scan as read, and as seen")
        notes = "".join(f"<li>{_text(note)}</li>" for note in answer.converted.notes)
        parts.append(
            f"<section><h3>The scan as read and as the model saw it</h3>{picture}"
            f'<details><summary>what was done with it</summary><ul class="x-notes">{notes}</ul>'
            "</details></section>"
        )
    return f'<div class="x-answer">{"".join(parts)}</div>'


def data_of(answer: Answer) -> dict[str, Any]:
    """An answer as plain values, for programs; the names are those of the tables."""
    found = answer.found
    return {
        "error": answer.error,
        "prediction": answer.prediction,
        "matches": [] if found is None else match_rows(answer),
        "matches_confident": None if found is None else found.confident,
        "matches_error": answer.found_error,
    }


def match_rows(answer: Answer) -> list[dict[str, Any]]:
    """Rows of the table of matches, with the columns of `xxact retrieve`."""
    if answer.found is None:
        return []
    return [
        {
            "file": answer.question.name,
            "rank": match.rank,
            "id": match.known.id,
            "formula": match.known.formula,
            "score": round(match.score, 4),
            "confident": "yes" if match.confident else "no",
        }
        | match.known.labels
        for match in answer.found.matches
    ]


def _prediction(answer: Answer, answerer: Answerer) -> str:
    row = answer.prediction
    if row[ERROR]:
        return f"<section><h3>Properties</h3>{error_box(f'not predicted: {row[ERROR]}')}</section>"
    units = answerer.predictor.units
    title = " · ".join(_text(row[key]) for key in ("formula", "pattern") if row.get(key))
    parts = [
        f"<h2>{title} <small>{FROM[row[f'{next(iter(units))}_from']]}</small></h2>",
        _verdict(row),
        _figures(row, units, answerer.predictor.confidence),
    ]
    if averaged := row.get(CANDIDATES):
        parts.append(f'<p class="x-quiet">averaged over {_text(averaged)}</p>')
    warnings = split_warnings(row[WARNINGS])
    if answer.converted is not None:
        warnings.append(
            "intervals were calibrated on simulated patterns; for a measured one they promise "
            "nothing"
        )
    parts += [f'<div class="x-warn">{_text(warning)}</div>' for warning in warnings]
    parts.append(_download([row], "prediction.csv", "Download the prediction (CSV)"))
    return f"<section>{''.join(parts)}</section>"


def _verdict(row: Mapping[str, Any]) -> str:
    if row.get(AGREEMENT) is None:
        return ""
    kind = "x-contradiction" if row[CONTRADICTION] == "yes" else "x-sound"
    said = agreement(row)
    return f'<div class="{kind}" role="status">{_text(said[0].upper() + said[1:])}.</div>'


def _figures(row: Mapping[str, Any], units: Mapping[str, str], confidence: float) -> str:
    """The table of properties."""
    headings, properties = properties_of(row, units, confidence)
    lines = []
    for one in properties:
        cells = [one.name, f"<b>{one.value}</b> {_text(one.unit)}", one.interval]
        for value, interval in one.alone:
            cells.append(f'{value} <span class="x-quiet">{interval}</span>' if interval else value)
        lines.append(cells)
    return _table(["property", "answer", *headings], lines)


def _matches(answer: Answer, answerer: Answerer) -> str:
    heading = "<h3>What is it? Known materials whose lines fit</h3>"
    if answer.found_error:
        said = f'<div class="x-warn" role="status">not compared: {_text(answer.found_error)}</div>'
        return f"<section>{heading}{said}</section>"
    found, library = answer.found, answerer.library
    if found is None or library is None:
        return ""
    first = found.matches[0].known
    if found.confident:
        verdict = f'<div class="x-sound" role="status">Confident match: <b>{_text(first.formula)}'
        verdict += f"</b> ({_text(first.id)})</div>"
    else:
        verdict = '<div class="x-warn" role="status"><b>No confident match</b>; the best are:</div>'
    rows = match_rows(answer)
    table = _known_table(rows, "score", library.units)
    picture = _picture(
        figure_of_matches(found, library, printable(answer.question.name, 90)),
        "the scan over the lines of the first three",
    )
    return (
        f"<section>{heading}{verdict}{table}<p>{_shares(found)}</p>{picture}"
        f"{_download(rows, 'matches.csv', 'Download the matches (CSV)')}</section>"
    )


def _shares(found: Found) -> str:
    """What part of the scan the first match explains, and what the second."""
    said = f"The first explains {found.phases[0].share:.0%} of the intensity"
    if len(found.phases) > 1:
        two = found.phases[1]
        known = two.match.known
        said += (
            f"; what is left fits <b>{_text(known.formula)}</b> ({_text(known.id)}), "
            f"{two.share:.0%}: together {two.match.score:.3f}"
        )
    return f"{said}."


def _nearest(answer: Answer, answerer: Answerer) -> str:
    if not answer.nearest:
        return ""
    table = _known_table(answer.nearest, "similarity", answerer.predictor.units)
    return f"<section><h3>Nearest known materials, by the aligned model</h3>{table}</section>"


def _known_table(known: Sequence[Mapping[str, Any]], score: str, units: Mapping[str, str]) -> str:
    """Known materials with the first of their labels, as `known_table` takes them."""
    header, *lines = known_table(known, score, units, _LABELS_SHOWN)
    cells = [[_text(text) for text in line] for line in lines]
    return _table(header, [[f"<b>{first}</b>", *others] for first, *others in cells])


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML, under headings that are text."""
    head = "".join(f"<th>{_text(heading)}</th>" for heading in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
    return (
        f'<div class="x-scroll"><table class="x-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _picture(figure: Figure, alternative: str) -> str:
    """A figure within the page."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img class="x-picture" alt="{alternative}" src="data:image/png;base64,{data}">'


def _download(rows: Sequence[Mapping[str, Any]], name: str, label: str) -> str:
    """A link that holds a table."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    data = base64.b64encode(text.getvalue().encode("utf-8", "backslashreplace")).decode()
    return f'<a class="x-download" download="{name}" href="data:text/csv;base64,{data}">{label}</a>'


def _text(what: object) -> str:
    """Text of whatever origin, harmless in a page."""
    return escape(printable(str(what), 2000))
