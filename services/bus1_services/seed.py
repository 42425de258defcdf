"""seed: the seed document, how a service describes itself to the bus.

Theory. A D-Bus body, little-endian, of signature ``sa(su)a(os)``: a title, the wanted names with their
RequestName flags, and the objects: path and introspection (the ``<interface>`` elements alone). The
handles beside it are the root node and one node per object, in this order. The service pins
the document as its seed message, so that the nodes survive a reset of its peer (S-12), and publishes
the same bytes with the same handles at the registry. This file has its own few lines of codec because
the daemon reads documents, too, and loads no D-Bus library.

Invariants. 1. ``decode(encode(d)) == d`` for every document that ``encode`` takes. 2. ``decode`` raises
RemoteProtocolError or TooLarge and nothing else, whatever the bytes are, in time linear in their number.
3. No name and no path stands twice in a document.

Not here: whether a name may be owned, and the limits of a party (the bridge's registry); what the
introspection says (``interface``): it is text of the service, shown only as its own.
"""

from __future__ import annotations

from struct import Struct

from bus1.core.api import Buffer
from bus1.errors import LocalProtocolError, RemoteProtocolError, TooLarge
from bus1.record import record

from .types import MAX_ARRAY, is_bus_name, is_object_path

SIGNATURE = "sa(su)a(os)"

_U32 = Struct("<I")


@record(frozen=True)
class SeedDocument:
    """A title, (name, RequestName flags) pairs, and (path, interface elements) pairs."""

    title: str
    names: tuple[tuple[str, int], ...] = ()
    objects: tuple[tuple[str, str], ...] = ()


def encode(document: SeedDocument) -> bytes:
    """The body of the document; LocalProtocolError for one that ``decode`` would refuse."""
    complaint = _complaint(document)
    if complaint is not None:
        raise LocalProtocolError(complaint)
    out = bytearray()
    try:
        _put_string(out, document.title)
        array = _open_array(out)
        for name, flags in document.names:
            _align(out, 8)
            _put_string(out, name)
            _put_number(out, flags)
        _close_array(out, array)
        array = _open_array(out)
        for path, xml in document.objects:
            _align(out, 8)
            _put_string(out, path)
            _put_string(out, xml)
        _close_array(out, array)
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"a text of the document is not Unicode: {error}") from error
    return bytes(out)


def decode(body: Buffer, max_names: int = MAX_ARRAY, max_objects: int = MAX_ARRAY) -> SeedDocument:
    """The document in a whole body; RemoteProtocolError, and TooLarge as soon as there is more."""
    reader = _Reader(body)
    title = reader.string()
    end = reader.array()
    names = []
    while reader.position < end:
        reader.align(8)
        names.append((reader.string(), reader.number()))
        if len(names) > max_names:
            raise TooLarge(f"more than {max_names} names in a seed document")
    reader.finish(end)
    end = reader.array()
    objects = []
    while reader.position < end:
        reader.align(8)
        objects.append((reader.string(), reader.string()))
        if len(objects) > max_objects:
            raise TooLarge(f"more than {max_objects} objects in a seed document")
    reader.finish(end)
    reader.finish(reader.size)
    document = SeedDocument(title, tuple(names), tuple(objects))
    complaint = _complaint(document)
    if complaint is not None:
        raise RemoteProtocolError(complaint)
    return document


class _Reader:
    """A body as it is read: every step checks that it stays inside."""

    def __init__(self, body: Buffer) -> None:
        self._view = memoryview(body)
        self.size = len(self._view)
        self.position = 0

    def number(self) -> int:
        self.align(4)
        value: int = _U32.unpack(self._take(4))[0]
        return value

    def string(self) -> str:
        raw = bytes(self._take(self.number() + 1))
        if raw.find(0) != len(raw) - 1:
            raise RemoteProtocolError("a string of the seed document does not end where it says")
        try:
            return raw[:-1].decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("a string of the seed document is not UTF-8") from error

    def array(self) -> int:
        """Reads an array's length; returns where it ends."""
        length = self.number()
        self.align(8)
        if length > MAX_ARRAY or length > self.size - self.position:
            raise RemoteProtocolError(f"an array of {length} bytes in the seed document")
        return self.position + length

    def align(self, alignment: int) -> None:
        if any(self._take(-self.position % alignment)):
            raise RemoteProtocolError("padding of the seed document is not zero")

    def finish(self, end: int) -> None:
        if self.position != end:
            raise RemoteProtocolError(f"the seed document is at {self.position}, not at {end}")

    def _take(self, n: int) -> memoryview:
        if n > self.size - self.position:
            raise RemoteProtocolError("the seed document ends too early")
        taken = self._view[self.position : self.position + n]
        self.position += n
        return taken


def _complaint(document: SeedDocument) -> str | None:
    """What is wrong with this document, in words."""
    for name, flags in document.names:
        if name[:1] == ":" or not is_bus_name(name) or not 0 <= flags <= 0xFFFF_FFFF:
            return f"no name to ask for: {name[:255]!r}, flags {flags}"
    for path, _ in document.objects:
        if not is_object_path(path):
            return f"not an object path: {path[:255]!r}"
    for what, pairs in (("name", document.names), ("path", document.objects)):
        if len({key for key, _ in pairs}) != len(pairs):
            return f"a {what} stands twice in the seed document"
    texts = (document.title, *(xml for _, xml in document.objects))
    if any("\0" in text for text in texts):
        return "a text of the seed document contains NUL"
    return None


def _align(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)


def _put_number(out: bytearray, value: int) -> None:
    _align(out, 4)
    out += _U32.pack(value)


def _put_string(out: bytearray, text: str) -> None:
    raw = text.encode()
    _put_number(out, len(raw))
    out += raw
    out.append(0)


def _open_array(out: bytearray) -> tuple[int, int]:
    """Where the array's length stands, and where its elements begin."""
    _put_number(out, 0)
    field = len(out) - 4
    _align(out, 8)
    return field, len(out)


def _close_array(out: bytearray, array: tuple[int, int]) -> None:
    field, start = array
    length = len(out) - start
    if length > MAX_ARRAY:
        raise LocalProtocolError(f"an array of {length} bytes in the seed document")
    _U32.pack_into(out, field, length)
