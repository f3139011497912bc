"""Takes from the worker what a model file has no use for: the network, other processes, the kernel's interfaces.

1. A runtime reads what strangers wrote. The listeners of the inference API were opened by agentd and are inherited, so they keep working.
2. New sockets are unix sockets only. But an inherited TCP socket can be taken off its peer and connected elsewhere (connect(2), AF_UNSPEC);
   no filter sees an address, so Landlock refuses that, from Linux 6.7 on, and the filter refuses the way past Landlock (MSG_FASTOPEN).
3. Landlock holds for one thread and those that it starts: so each thread that is there calls this before it starts others.
"""

import ctypes
import logging
import os
import struct

from edgefleet_protocol import syscall_filter

_SET_NO_NEW_PRIVS = 38
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_BIND_AND_CONNECT_TCP = 3

_log = logging.getLogger(__name__)


def forbid_network() -> tuple[bool, bool]:
    """Restrict this thread and those that it starts, and filter the system calls of all threads, for good.

    Return whether the filter holds, and whether TCP is refused to inherited sockets too. What the system does not have is left out.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        has_landlock = _refuse_tcp(libc)
        has_filter = syscall_filter.install(libc, syscall_filter.INFERENCE, os.uname().machine)
    except (OSError, AttributeError) as error:
        _log.info("the worker's network is not cut off: %s", error)
        return False, False
    return has_filter, has_landlock


def _refuse_tcp(libc: ctypes.CDLL) -> bool:
    # struct landlock_ruleset_attr {handled_access_fs, handled_access_net}: older kernels refuse the second member
    attributes = struct.pack("=QQ", 0, _BIND_AND_CONNECT_TCP)
    numbers = (ctypes.c_long(len(attributes)), ctypes.c_long(0))
    ruleset = int(libc.syscall(ctypes.c_long(_CREATE_RULESET), ctypes.c_char_p(attributes), *numbers))
    if ruleset < 0:
        return False
    try:
        return int(libc.syscall(ctypes.c_long(_RESTRICT_SELF), ctypes.c_long(ruleset), ctypes.c_long(0))) == 0
    finally:
        os.close(ruleset)
