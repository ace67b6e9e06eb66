"""A broker that somebody else runs: we check that it answers, and remember where it is."""

import ssl
from collections.abc import Sequence

from ops.broker import probe
from ops.broker.record import Record
from ops.broker.trouble import BrokerError

NOT_OURS = "That broker is not ours: it was named by its address, so its processes are managed where it runs."


class Address:
    """The broker that a record points to."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def begin(self) -> None:
        """Check that one of the addresses answers.

        Raises:
            BrokerError: none does, with what each said.
        """
        tls = self._tls()
        said = []
        for address in self._each():
            try:
                if probe.answers(address, tls=tls):
                    return
                said.append(f"{address}: it refuses Kafka's first request")
            except (OSError, probe.NotKafkaError) as error:
                said.append(f"{address}: {error}")
        raise BrokerError("No Kafka broker answers there:\n  " + "\n  ".join(said))

    def answers(self) -> bool:
        """Whether one of the addresses answers."""
        try:
            self.begin()
        except BrokerError:
            return False
        return True

    def pids(self) -> dict[int, int | None]:
        """The nodes' ids; their processes are not known here. None are known where a password is asked for."""
        return dict.fromkeys(self.addresses())

    def addresses(self) -> dict[int, str]:
        """Each node's address, as the cluster says."""
        if self.record.protocol.startswith("SASL"):
            return {}
        for address in self._each():
            try:
                return probe.brokers(address, tls=self._tls())
            except (OSError, probe.NotKafkaError):
                continue
        return {}

    def _each(self) -> Sequence[str]:
        return [address.strip() for address in self.record.bootstrap.split(",")]

    def _tls(self) -> ssl.SSLContext | None:
        if not self.record.protocol.endswith("SSL"):
            return None
        try:
            return ssl.create_default_context(cafile=self.record.ca_file or None)
        except OSError as error:
            raise BrokerError(
                f"The file of certificate authorities {self.record.ca_file} is not readable: {error}"
            ) from error

    def down(self, node: int, *, kill: bool) -> None:
        """Refused."""
        raise BrokerError(NOT_OURS)

    def up(self, node: int, *, wait: bool) -> None:
        """Refused."""
        raise BrokerError(NOT_OURS)

    def end(self) -> list[int]:
        """Nothing: it goes on where it runs."""
        return []
