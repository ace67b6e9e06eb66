"""How a record becomes bytes and back: one `Schema` for each, named and versioned in a header."""

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

import msgspec

T = TypeVar("T")

Format = Literal["msgpack", "json", "raw"]

HEADER = "schema"
"""The record header that names schema and major version: `parsed/1`."""


class Undecodable(Exception):  # noqa: N818 - what the bytes are, not a fault of ours
    """The value does not hold what its topic declares.

    code: `internal.undecodable` or `internal.unknown-version`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Schema(Generic[T]):
    """A record type on the wire.

    Fields may be added under the same version: readers ignore what they do not know. A changed meaning is a new
    version, and a reader refuses the versions it does not know.
    """

    def __init__(self, name: str, version: int, kind: type[T], wire: Format, says: str) -> None:
        self.name = name
        self.version = version
        self.kind = kind
        self.wire: Format = wire
        self.says = says
        self.tag = f"{name}/{version}".encode()
        self.header = (HEADER, self.tag)
        self._encode: Callable[[Any], bytes]
        self._decode: Callable[[bytes], Any]
        if wire == "raw":
            self._encode = self._decode = _as_is
        elif wire == "json":
            self._encode = msgspec.json.Encoder().encode
            self._decode = msgspec.json.Decoder(kind).decode
        else:
            self._encode = msgspec.msgpack.Encoder().encode
            self._decode = msgspec.msgpack.Decoder(kind).decode

    def encode(self, record: T) -> bytes:
        """The record's bytes."""
        return self._encode(record)

    def decode(self, value: bytes | None, headers: Any = ()) -> T:
        """The record in `value`.

        headers: pairs of name and bytes, as the Kafka record holds them; without a schema header the value is taken
        as this version (external producers need not send one).

        Raises:
            Undecodable: another schema or version, or bytes that are not this record.
        """
        for name, tag in headers:
            if name == HEADER and tag != self.tag:
                raise Undecodable(
                    "internal.unknown-version", f"expected {self.tag.decode()}, found {(tag or b'')[:80]!r}"
                )
        if value is None:
            raise Undecodable("internal.undecodable", "the record has no value")
        try:
            return self._decode(value)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Undecodable("internal.undecodable", str(error)) from error

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the record, for those who read or write it in other languages."""
        return msgspec.json.schema(self.kind)


def _as_is(value: Any) -> Any:
    return value
