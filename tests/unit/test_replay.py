"""The image's recipe as commands for the local machine."""

from pathlib import Path

from tests.replay.recipe import RECIPE, relocated, steps


def test_every_line_of_the_recipe_is_run_or_reported_as_skipped() -> None:
    """Each line runs below one folder or is reported as skipped, so that no command changes the machine."""
    lines = [line for line in RECIPE.read_text().splitlines() if line.startswith("RUN ")]
    replayed = list(steps(Path("/X"), "/python3.12", None))
    assert [f"RUN {step.line}" for step in replayed] == lines
    for step in replayed:
        assert step.command is not None or step.note
        assert step.command is None or not {"/opt/", "/root/", "/models"} & set(step.command.split("/X"))
        assert step.command is None or not step.command.startswith(("apt-get", "useradd", "ln "))
    assert sum(step.command is None for step in replayed) == 4
    (built,) = (step for step in replayed if "not compiled" in step.note)
    assert built.command is not None
    assert "{ false || {" in built.command


def test_local_copies_replace_repositories() -> None:
    """A local copy replaces the repository of the same name, and nothing is fetched for it."""
    replayed = [step for step in steps(Path("/X"), "/python3.12", Path("/S")) if "rgthree" in step.line]
    assert [step.command for step in replayed[:2]] == [
        "cp -rL /S/rgthree-comfy /X/opt/comfyui/custom_nodes/rgthree-comfy",
        None,
    ]


def test_only_paths_of_the_image_are_moved() -> None:
    line = "VIRTUAL_ENV=/opt/v /opt/v/bin/comfy https://example.com/opt/x && printf 'base_path: /models\\n'"
    assert relocated(line, Path("/X")) == (
        "VIRTUAL_ENV=/X/opt/v /X/opt/v/bin/comfy https://example.com/opt/x && printf 'base_path: /X/models\\n'"
    )
