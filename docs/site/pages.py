"""What `make docs` adds to docs/: README and its neighbours, cards of models, a page a module."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
NEIGHBOURS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository's root, and the pages that they become."""
CARDS = {
    f"models/{card.parent.name}/README.md": f"cards/{card.parent.name}.md"
    for card in sorted(ROOT.glob("models/*/README.md"))
}
"""Cards of the models that come with a clone, and the pages that they become."""
PACKAGES = ("datamodules", "lightning_modules")


def modules() -> list[str]:
    """Dotted names of all modules and packages, in the order of the navigation."""
    names = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(part for part in parts if part != "__init__"))
    return sorted(name for name in names if not name.endswith("__main__"))


def page_of(module: str) -> str:
    """The page of a module; a package's is the index of its folder."""
    if ROOT.joinpath(*module.split(".")).is_dir():
        module += ".index"
    elif module.endswith(".index"):
        module += "_module"
    return f"api/{module.replace('.', '/')}.md"


def moved(text: str) -> str:
    """A file of the root as a page beside those of docs/: its links lead where they led."""
    for name, page in (NEIGHBOURS | CARDS).items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}(?=[)#])", f"]({page}", text)
    # Notebooks are no pages: their names stay, without a link.
    text = re.sub(r"\[([^]]+)\]\((?:\.\./)?notebooks/[^)]*\)", r"`\1`", text)
    return re.sub(r"\]\(docs/", "](", text)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the cards, and the modules as a tree of packages, to the navigation."""
    tree: dict[str, dict] = {}
    for module in modules():
        branch = tree
        for part in module.split("."):
            branch = branch.setdefault(part, {})
    assert config.nav is not None
    config.nav.append({"Cards": list(CARDS.values())})
    config.nav.append({"Modules": [_branch(name, tree[name]) for name in sorted(tree)]})
    return config


def _branch(name: str, below: dict[str, dict]) -> dict:
    label = name.rpartition(".")[2]
    if not below:
        return {label: page_of(name)}
    rest = [_branch(f"{name}.{part}", below[part]) for part in sorted(below)]
    return {label: [page_of(name), *rest]}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for name, page in (NEIGHBOURS | CARDS).items():
        files.append(File.generated(config, page, content=moved((ROOT / name).read_text())))
    for module in modules():
        files.append(File.generated(config, page_of(module), content=f"::: {module}\n"))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links of the pages to README and its neighbours lead to the pages that these became."""
    return moved(markdown)
