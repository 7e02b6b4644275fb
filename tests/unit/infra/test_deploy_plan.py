"""What `deploy` says before it begins."""

import pytest

from infra.cloud.plan import costs, plan, worker_usd_per_hour
from infra.settings import DeploymentSettings


def test_a_worker_costs_its_gpu_its_cores_and_its_memory() -> None:
    """At list prices: 3,600 s of one L40S, 8 cores and 64 GiB."""
    expected = 3600 * (0.000542 + 8 * 0.0000131 + 64 * 0.00000222)
    assert worker_usd_per_hour("L40S", DeploymentSettings()) == pytest.approx(expected)


@pytest.mark.parametrize(("gpu", "gpus"), [("H100:2", 2), ("h100!", 1), ("A100", 1)])
def test_a_gpu_is_priced_as_modal_names_it(gpu: str, gpus: int) -> None:
    """Several on one worker count several times."""
    small = DeploymentSettings(worker_cpu=1, worker_memory_mib=1)
    price = 0.000583 if gpu == "A100" else 0.001097
    assert worker_usd_per_hour(gpu, small) == pytest.approx(3600 * (price * gpus + 0.0000131), rel=1e-3)


@pytest.mark.parametrize("gpu", ["Z9", "L40S:many"])
def test_an_unknown_gpu_has_no_price(gpu: str) -> None:
    """The plan says so, and does not fail."""
    assert worker_usd_per_hour(gpu, DeploymentSettings()) is None
    assert f"{gpu} of a price unknown here" in next(costs(DeploymentSettings(gpu=gpu)))


def test_workers_that_are_kept_without_work_are_named() -> None:
    """Other pools have none."""
    lines = list(costs(DeploymentSettings(min_workers=2, gpu_pools={"h100": "H100"})))
    assert lines[0].endswith("2 kept without work, day and night")
    assert lines[1].startswith("Pool h100: H100 about ")
    assert lines[1].endswith("nothing while no worker lives")


def test_the_plan_knows_when_sageattention_is_compiled() -> None:
    """The first build then takes longer."""
    assert "SageAttention is compiled" in "\n".join(plan(DeploymentSettings()))
    assert "SageAttention" not in "\n".join(plan(DeploymentSettings(gpu="", image="lite")))
