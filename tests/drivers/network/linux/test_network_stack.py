"""What the kernel's refusals become."""

import errno
from collections.abc import Callable, Iterator

import pytest
from pyroute2 import NetlinkError

from virtplane_drivers.host.network_stack import Link, NetworkStack

LINK = Link(1, "lo", "", "", 65536, up=True)


class _Interrupted:
    """A kernel that breaks off whatever it is asked to list: no real one does that when it is told to."""

    def __getattr__(self, question: str) -> Callable[..., Iterator[object]]:
        def listed(*_: object, **__: object) -> Iterator[object]:
            raise NetlinkError(errno.EINTR)
            yield

        return listed


@pytest.mark.parametrize(
    "question",
    [
        NetworkStack.links,
        NetworkStack.addresses,
        NetworkStack.routes,
        lambda stack: stack.port_vlans(LINK),
        lambda stack: stack.bucket(LINK),
        lambda stack: stack.redirect(LINK, LINK),
    ],
    ids=["links", "addresses", "routes", "vlans", "bucket", "redirect"],
)
def test_a_list_that_the_kernel_breaks_off_is_an_error_of_the_host_and_no_fault_of_ours(
    question: Callable[[NetworkStack], object],
) -> None:
    stack = NetworkStack()
    stack._netlink = _Interrupted()
    with pytest.raises(OSError, match=r"^\[Errno 4\] list ") as refused:
        question(stack)
    assert refused.value.errno == errno.EINTR
