"""`beefline endpoints` beside simulated services: who is up, and what each takes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ops.cli.endpoints import endpoints
from ops.simulate.client import Simulated, spawn_all


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Simulated]]:
    folder = tmp_path_factory.mktemp("network") / "chain"
    kinds = ("arc", "teranode")
    started = dict(zip(kinds, spawn_all([(kind,) for kind in kinds], chain=folder), strict=True))
    yield started
    for service in started.values():
        service.stop()


def said(*entries: str, as_json: bool = False) -> Result:
    listed = f"broadcast.endpoints={','.join(entries)}"
    return CliRunner().invoke(endpoints, ["--set", listed, *(["--json"] if as_json else [])])


def test_who_is_up_and_what_each_takes(services: dict[str, Simulated]) -> None:
    entries = [f"{kind}={service.url};priority={n}" for n, (kind, service) in enumerate(services.items())]
    shown = said(*entries, "arc=http://127.0.0.1:9")
    assert shown.exit_code == 0
    arc, teranode, away = shown.output.splitlines()
    assert arc.startswith(f"up    priority 0  arc@{services['arc'].url[7:]}  1 satoshis for 1000 bytes")
    assert teranode == f"up    priority 1  teranode@{services['teranode'].url[7:]}  publishes no policy"
    assert away.startswith("down  priority 0  arc@127.0.0.1:9  its policy cannot be read: ")
    told = [json.loads(line) for line in said(*entries, as_json=True).output.splitlines()]
    assert [(each["up"], each["priority"], each["publishes"]) for each in told] == [(True, 0, True), (True, 1, False)]
    assert told[0]["policy"]["fee_bytes"] == 1000


def test_nobody_up_is_a_failure_and_so_is_a_setting_that_cannot_be_meant(tmp_path: Path) -> None:
    assert said("arc=http://127.0.0.1:9").exit_code == 1
    wrong = said("mapi=http://127.0.0.1:9")
    assert (wrong.exit_code, "none of arc" in wrong.output) == (3, True)
    key = tmp_path / "key"
    gone = said(f"arc=http://127.0.0.1:9;key-file={key}")
    assert gone.exit_code == 3
    assert str(key) in gone.output
