"""How clients reach the cluster: one translation of `KafkaSettings` for aiokafka and for Faust."""

import ssl
from pathlib import Path
from typing import Any

import faust

from agents.runtime.settings import KafkaSettings


def ssl_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """The TLS context, or None for protocols without TLS.

    Raises:
        OSError: a file named in the settings cannot be read.
    """
    if not settings.security_protocol.endswith("SSL"):
        return None
    context = ssl.create_default_context(cafile=settings.ssl_ca_file or None)
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_cert_file:
        context.load_cert_chain(settings.ssl_cert_file, settings.ssl_key_file or None)
    return context


def password(settings: KafkaSettings) -> str:
    """The SASL password.

    Raises:
        OSError: its file cannot be read.
    """
    return Path(settings.sasl_password_file).read_text(encoding="utf-8").strip()


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments for any aiokafka client."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap.split(","),
        "security_protocol": settings.security_protocol,
        "ssl_context": ssl_context(settings),
    }
    if settings.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": password(settings),
        }
    return options


def faust_broker(settings: KafkaSettings) -> list[str]:
    """The bootstrap servers as Faust writes them."""
    return [f"kafka://{server}" for server in settings.bootstrap.split(",")]


def faust_credentials(settings: KafkaSettings) -> Any:
    """Faust's credentials, or None on an open broker."""
    context = ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=settings.sasl_mechanism,
            username=settings.sasl_username,
            password=password(settings),
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None
