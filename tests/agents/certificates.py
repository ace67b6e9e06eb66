"""Certificates that sign themselves, for tests of TLS: made anew each time, so that no key is kept anywhere."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from Cryptodome.Hash import SHA256
from Cryptodome.PublicKey import RSA
from Cryptodome.Signature import pkcs1_15

SEQUENCE, SET, OID, NULL, BITS, OCTETS, TEXT, TIME = 0x30, 0x31, 0x06, 0x05, 0x03, 0x04, 0x0C, 0x17
VERSION, EXTENSIONS, DNS = 0xA0, 0xA3, 0x82

# Object identifiers as DER holds them: sha256WithRSAEncryption, commonName, subjectAltName.
SHA256_RSA, COMMON_NAME, ALTERNATIVE_NAME = (bytes.fromhex(text) for text in ("2a864886f70d01010b", "550403", "551d11"))


class Certificate:
    """A key and its certificate for one DNS name, as PEM files."""

    def __init__(self, folder: Path, name: str) -> None:
        key = RSA.generate(2048)
        self.key = folder / f"{name}.key"
        self.file = folder / f"{name}.pem"
        self.key.write_bytes(key.export_key())
        self.file.write_text(ssl.DER_cert_to_PEM_cert(_certificate(key, name)))


def _certificate(key: RSA.RsaKey, name: str) -> bytes:
    """X.509 version 3, as short as OpenSSL takes it (RFC 5280)."""
    algorithm = _der(SEQUENCE, _der(OID, SHA256_RSA), _der(NULL))
    who = _der(SEQUENCE, _der(SET, _der(SEQUENCE, _der(OID, COMMON_NAME), _der(TEXT, name.encode()))))
    now = datetime.now(UTC)
    times = [f"{now + timedelta(days=days):%y%m%d%H%M%SZ}".encode() for days in (-1, 1)]
    names = _der(SEQUENCE, _der(DNS, name.encode()))
    extension = _der(SEQUENCE, _der(OID, ALTERNATIVE_NAME), _der(OCTETS, names))
    body = _der(
        SEQUENCE,
        _der(VERSION, b"\x02\x01\x02"),
        b"\x02\x01\x01",  # serial number
        algorithm,
        who,
        _der(SEQUENCE, *(_der(TIME, when) for when in times)),
        who,
        key.public_key().export_key("DER"),
        _der(EXTENSIONS, _der(SEQUENCE, extension)),
    )
    signature = pkcs1_15.new(key).sign(SHA256.new(body))
    return _der(SEQUENCE, body, algorithm, _der(BITS, b"\0" + signature))


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + body
