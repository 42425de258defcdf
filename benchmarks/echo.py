"""echo: the callee of a pair, a process that answers every call (``python -m benchmarks.echo ADDRESS``).

Theory. It prints its unique name once it can be called. The answer to the first call is built from that
call's sender, and only its two serials are patched from then on; all calls of one read are answered by
one write. Through the floor's relay nobody stamps a sender: any name will do there.
"""

from __future__ import annotations

import sys

from . import messages
from .connection import Connection
from .messages import CALL, REPLY_SERIAL_OFFSET, SERIAL_OFFSET, U32


def serve(connection: Connection) -> None:
    """Answer until the bus closes the connection."""
    reply, serial = bytearray(), 1
    while True:
        answers = []
        for message in connection.frames():
            if message[1] != CALL:
                continue
            if not reply:
                caller = messages.text_field(message, messages.SENDER) or connection.unique
                fields = {messages.REPLY_SERIAL: 0, messages.DESTINATION: caller}
                reply = bytearray(messages.build(messages.RETURN, 1, fields, "s", "The quick brown fox."))
            serial += 1
            U32.pack_into(reply, SERIAL_OFFSET, serial)
            reply[REPLY_SERIAL_OFFSET : REPLY_SERIAL_OFFSET + 4] = message[SERIAL_OFFSET : SERIAL_OFFSET + 4]
            answers.append(bytes(reply))
        connection.socket.sendall(b"".join(answers))


def main(address: str) -> None:
    """Connect, print the name, serve."""
    connection = Connection.open(address)
    print(connection.unique, flush=True)
    connection.wait_at_most(0)
    serve(connection)


if __name__ == "__main__":
    main(*sys.argv[1:])
