"""Missing programs of the distribution are named by package, and installed only by root."""

from pathlib import Path

import pytest

from tests.cluster import system_packages

PACKAGE_OF = {"qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils", "swtpm": "swtpm"}


def test_a_package_is_missing_while_one_of_its_commands_is(tmp_path: Path) -> None:
    (tmp_path / "qemu-img").touch(mode=0o755)
    assert system_packages.missing_packages(PACKAGE_OF, str(tmp_path)) == ["qemu-utils", "swtpm"]
    (tmp_path / "qemu-nbd").touch(mode=0o755)
    assert system_packages.missing_packages(PACKAGE_OF, str(tmp_path)) == ["swtpm"]


def test_a_user_who_is_not_root_is_told_the_one_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_packages, "missing_packages", lambda _package_of: ["qemu-system-x86", "qemu-utils"])
    monkeypatch.setattr("shutil.which", lambda _command: "/usr/bin/apt-get")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert system_packages.main() == 1
    assert "sudo apt-get install qemu-system-x86 qemu-utils\n" in capsys.readouterr().err


def test_the_quickstart_installs_nothing_that_only_tests_need() -> None:
    assert "qemu-ga" in system_packages.TESTS_PACKAGE_OF
    assert "qemu-ga" not in system_packages.of_the_quickstart()


@pytest.mark.parametrize(("user", "command"), [(0, "nft"), (1000, "passt")])
def test_the_quickstart_needs_what_makes_the_network_that_its_user_may_have(
    user: int, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert {"nft", "passt"} & set(system_packages.of_the_quickstart()) == {command}
