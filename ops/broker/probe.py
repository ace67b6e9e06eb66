"""Asks a broker whether it answers, in Kafka's own protocol: an open port is not a broker that is ready.

Two requests, spoken over a plain socket, so that nothing heavy is imported and nothing is logged:
ApiVersions 0 (allowed before authentication) and Metadata 1.
"""

import socket
import ssl
import struct

from ops.broker.trouble import BrokerError

METADATA, API_VERSIONS = 3, 18
NO_TOPICS = struct.pack(">i", 0)  # an empty list asks about none; a null one would ask about all
LONGEST_ANSWER = 1 << 20  # bytes; a cluster of a thousand brokers says less


class NotKafkaError(Exception):
    """Something answers, and what it says is not Kafka's protocol."""


def split(address: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT", with or without brackets round an IPv6 host.

    Raises:
        BrokerError: it is not of that form.
    """
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BrokerError(f"{address!r} is no address of a broker: it has the form HOST:PORT, as 127.0.0.1:9092.")
    return host.strip("[]"), int(port)


def answers(address: str, *, tls: ssl.SSLContext | None = None, timeout: float = 2.0) -> bool:
    """Whether a Kafka broker answers at this address, before any authentication.

    Raises:
        NotKafkaError: something else does.
        OSError: nothing does (ssl.SSLError among these).
    """
    body = _ask(address, API_VERSIONS, 0, b"", tls, timeout)
    return len(body) >= 6 and struct.unpack_from(">h", body)[0] == 0


def brokers(address: str, *, tls: ssl.SSLContext | None = None, timeout: float = 2.0) -> dict[int, str]:
    """The cluster's live brokers by node id, as host:port, as the broker at this address knows them.

    Raises: as `answers`.
    """
    body = _ask(address, METADATA, 1, NO_TOPICS, tls, timeout)
    found: dict[int, str] = {}
    try:
        (count,), at = struct.unpack_from(">i", body), 4
        for _ in range(count):
            node, length = struct.unpack_from(">ih", body, at)
            at += 6
            host = body[at : at + length].decode()
            (port,) = struct.unpack_from(">i", body, at + length)
            (rack,) = struct.unpack_from(">h", body, at + length + 4)
            at += length + 6 + max(rack, 0)
            found[node] = f"{host}:{port}"
    except (struct.error, UnicodeDecodeError) as error:
        raise NotKafkaError(f"{address} does not speak Kafka's protocol: {error}") from error
    return found


def known(address: str) -> set[int]:
    """As `brokers`, the ids alone; none when nothing answers."""
    try:
        return set(brokers(address))
    except (OSError, NotKafkaError):
        return set()


def _ask(address: str, api: int, version: int, body: bytes, tls: ssl.SSLContext | None, timeout: float) -> bytes:
    client = b"beefline-probe"
    head = struct.pack(f">hhih{len(client)}s", api, version, 1, len(client), client)
    host, port = split(address)
    with (
        socket.create_connection((host, port), timeout) as plain,
        tls.wrap_socket(plain, server_hostname=host) if tls else plain as link,
    ):
        link.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        (length,) = struct.unpack(">i", _exactly(link, 4))
        if not 4 <= length <= LONGEST_ANSWER:
            raise NotKafkaError(f"{address} does not speak Kafka's protocol: it announces {length} bytes.")
        return _exactly(link, length)[4:]  # less the correlation id


def _exactly(link: socket.socket, length: int) -> bytes:
    got = bytearray()
    while len(got) < length:
        piece = link.recv(length - len(got))
        if not piece:
            raise ConnectionResetError("closed in the middle of an answer")
        got += piece
    return bytes(got)
