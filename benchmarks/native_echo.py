"""native_echo: the callee of a native pair (``python -m benchmarks.native_echo ADDRESS DESCRIPTOR``).

Theory. It prints ``ready`` once it is attached. Answering, giving the call's slice back, letting the
reply node go and waiting for the next call are one request.
"""

from __future__ import annotations

import sys

from bus1_services.call import Kind

from bus1.core.api import MessageType
from bus1.peer import Peer

from .native import message


def main(address: str, descriptor: str) -> None:
    """Attach and answer until killed."""
    answer = message(Kind.RETURN, "", "The quick brown fox.")
    with Peer.from_descriptor(int(descriptor), address) as peer:
        print("ready", flush=True)
        call = peer.recv(wait=True)
        while call.type is MessageType.DATA:
            reply_node = call.handles[0]
            call = peer.reply([reply_node], answer, answered=call, release=reply_node)


if __name__ == "__main__":
    main(*sys.argv[1:])
