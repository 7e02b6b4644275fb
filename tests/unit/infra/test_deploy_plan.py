"""The plan that `deploy` prints before it begins."""

import pytest

from infra.cloud.plan import costs, plan, worker_usd_per_hour
from infra.settings import DeploymentSettings


def test_a_worker_costs_its_gpu_its_cores_and_its_memory() -> None:
    """A worker's price per hour is the list price of its GPU, its cores and its memory."""
    expected = 3600 * (0.000542 + 8 * 0.0000131 + 64 * 0.00000222)
    assert worker_usd_per_hour("L40S", DeploymentSettings()) == pytest.approx(expected)


@pytest.mark.parametrize(("gpu", "gpus"), [("H100:2", 2), ("h100!", 1), ("A100", 1)])
def test_a_gpu_is_priced_as_modal_names_it(gpu: str, gpus: int) -> None:
    """A GPU is priced under Modal's spellings, and several GPUs on a worker are each counted."""
    small = DeploymentSettings(worker_cpu=1, worker_memory_mib=1)
    price = 0.000583 if gpu == "A100" else 0.001097
    assert worker_usd_per_hour(gpu, small) == pytest.approx(3600 * (price * gpus + 0.0000131), rel=1e-3)


@pytest.mark.parametrize("gpu", ["Z9", "L40S:many"])
def test_an_unknown_gpu_has_no_price(gpu: str) -> None:
    """The plan says that the price of an unknown GPU is unknown, and does not fail."""
    assert worker_usd_per_hour(gpu, DeploymentSettings()) is None
    assert f"{gpu} of a price unknown here" in next(costs(DeploymentSettings(gpu=gpu)))


def test_idle_workers_are_named() -> None:
    """The plan names the workers that a pool keeps without work, and says nothing of them for other pools."""
    lines = list(costs(DeploymentSettings(min_workers=2, gpu_pools={"h100": "H100"})))
    assert lines[0].endswith("2 kept without work, day and night")
    assert lines[1].startswith("Pool h100: H100 about ")
    assert lines[1].endswith("nothing while no worker lives")


def test_the_plan_says_when_sageattention_is_compiled() -> None:
    """The plan mentions that SageAttention is compiled only when the image contains it, because the first build then
    takes longer."""
    assert "SageAttention is compiled" in "\n".join(plan(DeploymentSettings()))
    assert "SageAttention" not in "\n".join(plan(DeploymentSettings(gpu="", image="lite")))
