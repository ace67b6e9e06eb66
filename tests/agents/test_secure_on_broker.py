"""A stage on a broker that asks for TLS and a password, through Faust's consumer and our own producers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.runtime.settings import KafkaSettings
from ops import broker as brokers
from tests.agents.harness import Bench
from tests.conftest import CACHE
from topics.registry import BROADCAST, INGEST, OPERATIONS, PARSED

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Secure]:
    """A broker with a SASL_SSL listener: jars, since certificates are made for it here."""
    home = tmp_path_factory.mktemp("secure")
    running = brokers.start(1, home=home, cache=CACHE, guarded=True, sasl_ssl=True, how="jars")
    assert running.secure is not None
    yield running.secure
    running.stop()
    shutil.rmtree(home)


@pytest.mark.setting("kafka.security_protocol")
@pytest.mark.setting("kafka.sasl_mechanism")
@pytest.mark.setting("kafka.sasl_username")
@pytest.mark.setting("kafka.sasl_password_file")
@pytest.mark.setting("kafka.ssl_ca_file")
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
async def test_stages_work_through_sasl_ssl(
    secure: brokers.Secure, prefix: str, tmp_path: Path, mechanism: str
) -> None:
    kafka = KafkaSettings(
        bootstrap=secure.bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism=mechanism,  # type: ignore[arg-type] # one of the literals
        sasl_username=secure.user,
        sasl_password_file=str(secure.password_file),
        ssl_ca_file=str(secure.ca_file),
    )
    async with Bench(secure.bootstrap, prefix, tmp_path, kafka) as bench:
        values = [b"value-%d" % n for n in range(50)]
        await bench.send(INGEST, values)
        await bench.send(OPERATIONS, values, keys=[b"topic:tm_a"] * len(values))
        bench.worker("odd")
        bench.worker("counter")
        assert {record.value for record in await bench.wait_for(PARSED, len(values))} == set(values)
        assert len(await bench.wait_for(BROADCAST, len(values))) == len(values)
