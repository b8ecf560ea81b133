"""What an agent opens for the names that `--drivers` gives."""

import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from virtplane_agent.endpoints import GIVES, HYPERVISOR_DRIVERS, Settings, open_endpoints
from virtplane_agent.main import argument_parser


def settings(folder: Path) -> Settings:
    return Settings(state_folder=folder / "state", runtime_folder=folder / "run", qemu_accelerator="tcg")


@pytest.mark.parametrize(
    ("drivers", "pool_types"),
    [
        (["fake"], {"host-a-fake": ("fake",)}),
        (["qemu"], {"host-a-qemu": ("directory",)}),
        (["qemu", "fake"], {"host-a-qemu": ("directory",), "host-a-fake": ("directory", "fake")}),
    ],
    ids=",".join,
)
async def test_each_driver_gets_the_storage_that_it_can_attach(
    tmp_path: Path, drivers: list[str], pool_types: dict[str, tuple[str, ...]]
) -> None:
    (tmp_path / "state").mkdir()
    async with AsyncExitStack() as stack:
        endpoints = await open_endpoints(stack, "host-a", drivers, settings(tmp_path))
        assert {name: one.pool_types for name, one in endpoints.hypervisors.items()} == pool_types
        assert {one.driver.name for one in endpoints.hypervisors.values()} == set(drivers)
        assert set(endpoints.storage) == {kind for kinds in pool_types.values() for kind in kinds}
        assert all(one.facts.cpu_cores > 0 for one in endpoints.hypervisors.values())


def test_an_agent_holds_the_code_of_the_drivers_it_was_asked_for_only() -> None:
    """It runs beside guests: what it does not use must not cost memory."""
    code = "import sys, virtplane_agent.main; print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    drivers = {f"virtplane_drivers.hypervisor.{name}" for name in HYPERVISOR_DRIVERS}
    drivers |= {f"virtplane_drivers.storage.{name}" for name in GIVES}
    assert {"virtplane_agent.runtime", "virtplane_drivers.hypervisor.contract"} <= set(loaded.split())
    assert not {*drivers, "oslo_utils"} & set(loaded.split())


@pytest.mark.parametrize(
    "cidr", ["127.0.0.0/24", "224.0.0.0/16", "0.0.0.0/0", "10.0.0.1/24", "10.0.0.0/25", "fd00::/64"]
)
def test_a_transit_that_no_link_can_have_is_refused_at_the_start(cidr: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["--transit-cidr", cidr])
    assert f"argument --transit-cidr: {cidr}" in capsys.readouterr().err.replace("'", "")
