"""docs/how-to/client.md describes the client as it is."""

import re
from pathlib import Path

import comfyui_modal_client
from comfyui_modal_client import Client, ClientError

PAGE = (Path(__file__).parents[3] / "docs/how-to/client.md").read_text()


def rows(heading: str) -> set[str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_docs_name_every_method_and_no_other() -> None:
    """The page has a row for each method of the clients."""
    assert rows("Methods") == {name for name in vars(Client) if not name.startswith("_")}


def test_docs_name_every_exception_and_no_other() -> None:
    """The page has a row for each exception but their base, which the text names."""
    public = {name: getattr(comfyui_modal_client, name) for name in comfyui_modal_client.__all__}
    errors = {name for name, kind in public.items() if isinstance(kind, type) and issubclass(kind, ClientError)}
    assert rows("Errors") == errors - {"ClientError"}


def test_the_examples_in_the_docs_are_valid() -> None:
    """Each Python example compiles and imports only what exists."""
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(examples) == 4
    for example in examples:
        compile(example, "client.md", "exec")
        for line in re.findall(r"^from comfyui_modal_client import (.+)$", example, re.MULTILINE):
            assert set(line.split(", ")) <= set(comfyui_modal_client.__all__)
