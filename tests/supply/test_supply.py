"""Everything that is installed, cloned or downloaded is pinned."""

import re
import tomllib
from pathlib import Path

import pytest

from infra.nodes import custom_nodes
from tests.supply.licences import pinned

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ("base.txt", "dev.txt", "fuzz.txt", "bench.txt")


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_has_hashes(name: str) -> None:
    """Every requirement has a version and hashes, and no file names a package index."""
    text = (ROOT / "requirements" / name).read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries), name
    assert "://" not in text


def test_every_custom_node_has_its_commit() -> None:
    """Every custom node is pinned to a full commit hash at an https address."""
    for node in custom_nodes(ROOT / "infra" / "nodes.toml"):
        assert re.fullmatch(r"[0-9a-f]{40}", node.commit)
        assert node.repository.startswith("https://")


def test_every_model_has_a_hash_or_is_documented_without_one() -> None:
    """Every model has a hash or is documented as a model without a published one, whose hash the first sync records."""
    models = tomllib.loads((ROOT / "infra" / "models.toml").read_text())["model"]
    documented = (ROOT / "docs/how-to/models.md").read_text()
    for model in models:
        assert model["licence"]
        assert re.fullmatch(r"[0-9a-f]{64}", model.get("sha256", "")) or Path(model["file"]).name in documented


def test_the_licences_cover_the_installed_packages() -> None:
    """docs/reference/licences.md lists every installed package; `make licences` updates it."""
    listed = set(
        re.findall(r"^\| ([^|]+) \| ([^|]+) \|", (ROOT / "docs/reference/licences.md").read_text(), re.MULTILINE)
    )
    assert listed >= set(pinned("base.txt"))
