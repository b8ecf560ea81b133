"""One agent per state folder, and an identity that outlives it."""

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from virtplane_agent.state_folder import StateFolderInUse, state_folder

HOLDER = """
import sys, pathlib
from virtplane_agent.state_folder import state_folder
with state_folder(pathlib.Path(sys.argv[1])) as identity:
    print(identity, flush=True)
    sys.stdin.read()
"""


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with state_folder(tmp_path / "a" / "b") as identity:
        assert UUID(identity).version == 4
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_the_identity_stays(tmp_path: Path) -> None:
    with state_folder(tmp_path) as first:
        pass
    with state_folder(tmp_path) as again:
        assert again == first


def test_a_second_agent_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with (
        state_folder(tmp_path),
        pytest.raises(StateFolderInUse, match=f"in use by the agent with pid {os.getpid()}$"),
        state_folder(tmp_path),
    ):
        pass
    with state_folder(tmp_path):
        pass


def test_an_agent_that_was_killed_holds_nothing_and_leaves_its_identity(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with holder:
        assert holder.stdout is not None
        identity = holder.stdout.readline().strip()
        with pytest.raises(StateFolderInUse, match=str(holder.pid)), state_folder(tmp_path):
            pass
        holder.kill()
    with state_folder(tmp_path) as ours:
        assert ours == identity


@pytest.mark.parametrize("content", [b"", b"6b0cf3b5-6d5e", b"\0" * 37, b"\xff\xfe"], ids=repr)
def test_a_torn_identity_is_replaced_by_one_that_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "identity").write_bytes(content)
    (tmp_path / "identity.new").write_text("left by a crash")
    with state_folder(tmp_path) as healed:
        assert UUID(healed)
    with state_folder(tmp_path) as again:
        assert again == healed
