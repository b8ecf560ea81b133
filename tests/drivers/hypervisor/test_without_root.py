"""The same contract, kept by drivers that are not root: the suite once more, as a user that may do nothing."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

NOBODY = 65534

# In a mount namespace of its own: an interpreter below a folder that is root's alone is shown to everybody.
SHOWN_TO_ALL = """
set -e
base=$1 hidden=$2 scratch=$3; shift 3
if [ -n "$hidden" ]; then
    mount --bind "$base" "$scratch"
    mount -t tmpfs -o mode=755 tmpfs "$hidden"
    mkdir -p "$base"
    mount --bind "$scratch" "$base"
fi
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"""


def hidden_folder(path: Path) -> str:
    """The topmost folder above `path` that others may not enter; empty when there is none."""
    folders = [path, *path.parents]
    return next((str(folder) for folder in reversed(folders) if not folder.stat().st_mode & 0o001), "")


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite is already run without root")
@pytest.mark.timeout(300)
def test_the_contract_is_kept_without_root(tmp_path: Path) -> None:
    base = Path(sys.base_prefix)
    # Not below tmp_path, whose parents are root's alone.
    with tempfile.TemporaryDirectory(prefix="virtplane-nobody-") as temporary:
        os.chown(temporary, NOBODY, NOBODY)
        suites = [f"tests/drivers/hypervisor/{name}.py" for name in ("test_contract", "test_nics_contract")]
        pytest_argv = ["-B", "-m", "pytest", *suites, "-q", "-p", "no:cacheprovider", f"--basetemp={temporary}/t"]
        shell = ["sh", "-c", SHOWN_TO_ALL, "sh", str(base), hidden_folder(base), str(tmp_path)]
        argv = ["unshare", "--mount", *shell, sys.executable, *pytest_argv]
        env = os.environ | {"HOME": temporary, "TMPDIR": temporary}
        done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
