"""Parts of recipes that are read without Lightning."""

from pathlib import Path

import pytest

from lightning_modules.experiments.assessment.recipe_augmentation import read_augmentation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: {augmentation: {strain: abc}}", "has a value of another kind"),
        ("data: {augmentation: {strian: 0.1}}", "has no strian"),
        ("data: {augmentation: {strain: -1}}", "strain is -1"),
        ("data: [", "no YAML file"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused(
    text: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=expected):
        read_augmentation(path)
    path.write_text("data: {augmentation: {strain: 0.25}}")
    assert read_augmentation(path).strain == 0.25
