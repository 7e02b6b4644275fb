"""The models that a workflow names: which are fetched, and which are refused by name."""

from typing import Any

import httpx
import pytest

from infra.models.named import models_named_by
from infra.models.public_only import PublicOnly, public_transport
from storage.intake.ssrf import DestinationRefused
from workflows.errors import NotAWorkflow

HUB = "https://huggingface.co/team/models/resolve/main/split/a.safetensors"
SHA = "ab" * 32


def file_with(*noted: dict[str, Any]) -> dict[str, Any]:
    """Return a file of the editor whose only node names the models in its values and its properties."""
    values = [entry.get("name") for entry in noted]
    node = {"id": 1, "type": "Loader", "widgets_values": values, "properties": {"models": list(noted)}}
    return {"nodes": [node], "links": []}


def entry(**changed: Any) -> dict[str, Any]:
    return {"name": "a.safetensors", "directory": "vae", "url": HUB} | changed


def reason(**changed: Any) -> str:
    """Return why a model is refused."""
    named = models_named_by(file_with(entry(**changed)))
    assert named.models == []
    ((_, why),) = named.refused
    return why


def test_a_model_of_the_hub_is_fetched_from_the_hub() -> None:
    """A URL of Hugging Face becomes a repository, a revision and a path, so that its token and commit are used."""
    noted = entry(url=HUB + "?download=true", hash=SHA, hash_type="SHA256")
    (model,) = models_named_by(file_with(noted)).models
    assert (model.name, model.source(), model.sha256) == ("vae/a.safetensors", HUB, SHA)
    assert (model.repository, model.revision, model.path) == ("team/models", "main", "split/a.safetensors")


def test_any_other_source_is_marked_as_named_by_a_workflow() -> None:
    """Another https URL is kept, for a download from public addresses alone."""
    (model,) = models_named_by(file_with(entry(url="https://example.com/get/7?type=Model#part"))).models
    assert (model.url, model.named_by) == ("https://example.com/get/7?type=Model", "workflow")


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/etc/a.safetensors", "a/../../b.safetensors", ".ssh/a.safetensors", "..\\..\\a.safetensors"],
)
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    """A file's name stays in its folder, also one with backslashes."""
    assert "file cannot be used" in reason(name=name)


@pytest.mark.parametrize("folder", ["../vae", "/models", "custom_nodes", "input", "vae/../..", "", None, 3])
def test_an_unknown_folder_is_refused(folder: Any) -> None:
    """Only ComfyUI's folders of models, and those of the packs in the image, are written to."""
    assert "folder" in reason(directory=folder)


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.bin", "a.pkl", "a.pth"])
def test_a_format_that_can_run_code_is_refused(name: str) -> None:
    """Pickles are not fetched from a source that a workflow names."""
    assert "can run code" in reason(name=name)


@pytest.mark.parametrize(
    "url",
    [
        "http://huggingface.co/a/b/resolve/main/a",
        "https://example.com:8443/a",
        "https://user:word@example.com/a",
        "https://huggingface.co/a/b/resolve/main/../../x",
        "https://huggingface.co/a/b/resolve/main/%2e%2e/x",
        "https:///a",
        "https://[a/b",
        "file:///etc/passwd",
        "ftp://example.com/a",
        "//example.com/a",
        "x",
    ],
)
def test_a_source_that_is_no_plain_https_url_is_refused(url: str) -> None:
    """Only https, without a port, a user and dots in the path."""
    assert "URL" in reason(url=url)


def test_twins_are_one_model() -> None:
    """Of two entries for one file, also in letters of another case, the first counts."""
    named = models_named_by(file_with(entry(), entry(name="A.safetensors", url="https://example.com/b")))
    assert [model.name for model in named.models] == ["vae/a.safetensors"]


def test_a_model_without_a_source_is_named() -> None:
    """What the workflow names without a URL is listed; a graph in API format never has one."""
    graph = {"1": {"class_type": "Loader", "inputs": {"name": "b.safetensors"}}}
    assert models_named_by(graph).without_source == ["b.safetensors"]
    with pytest.raises(NotAWorkflow):
        models_named_by("no workflow")


@pytest.mark.parametrize("url", ["http://example.com/a", "https://example.com:444/a", "https://u@example.com/a"])
def test_each_redirect_is_checked(url: str) -> None:
    """A redirect to another scheme, port or user is refused before a connection."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"location": url})

    client = httpx.Client(transport=PublicOnly(httpx.MockTransport(answer)), follow_redirects=True)
    with client, pytest.raises(DestinationRefused):
        client.get("https://example.com/a")
    assert asked == ["https://example.com/a"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.7", "[::ffff:10.0.0.7]"]
)
def test_an_address_that_is_not_public_is_refused(host: str) -> None:
    """No connection goes to this machine, a private network, or a cloud's metadata."""
    with httpx.Client(transport=public_transport()) as client, pytest.raises(DestinationRefused, match="not public"):
        client.get(f"https://{host}/a")
