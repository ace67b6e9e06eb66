"""compose.yaml and the Docker side of the launcher, by the rules of the compose specification, without an engine."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from ops.broker import docker, properties
from ops.broker.record import Member
from ops.cli.main import main
from ops.settings import load
from ops.stages import STAGES

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose.yaml"
LOADER = Path(__file__).with_name("compose_go")


def loaded(file: Path) -> dict[str, Any]:
    """The project as Docker's own tool reads it; without that, as the library that tool is made of does."""
    environment = os.environ | {"WORKER_TOKEN": "secret"}
    plugin = (
        shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    )
    command = (
        ["docker", "compose", "--file", str(file), "config", "--format", "json"]
        if plugin
        else ["go", "run", "-C", str(LOADER), ".", str(file)]
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    project: dict[str, Any] = json.loads(done.stdout)
    return project


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_it_loads_by_the_specification() -> None:
    project = loaded(COMPOSE)
    assert set(project["services"]) >= {*STAGES, "broker", "topics", "arc"}
    ports = project["services"]["broker"]["ports"]
    assert [(port["host_ip"], port["target"], port["published"]) for port in ports] == [
        ("127.0.0.1", docker.HOST, "9092")
    ]


def test_the_file_of_three_nodes_loads_too(tmp_path: Path) -> None:
    members = [Member(id=node, port=20_000 + node) for node in (1, 2, 3)]
    file = tmp_path / "compose.json"
    file.write_text(json.dumps(docker.composed(members, 8 << 20, "YmVlZmxpbmUtY29tcG9zZQ")))
    project = loaded(file)
    assert set(project["services"]) == {"broker-1", "broker-2", "broker-3"}
    told = project["services"]["broker-2"]["environment"]
    assert told["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@broker-1:9093,2@broker-2:9093,3@broker-3:9093"
    assert told["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://broker-2:9092,HOST://127.0.0.1:20002"


def test_the_broker_is_told_what_the_table_says(services: dict[str, Any]) -> None:
    shape = properties.Shape(nodes=1, payload=docker.COMPOSED_PAYLOAD)
    told = dict(services["broker"]["environment"])
    assert told.pop("CLUSTER_ID").startswith("${BROKER_CLUSTER_ID:-")
    assert told == docker.environment(shape, 1, ["broker"], "${BROKER_PORT:-9092}")
    assert services["broker"]["image"] == docker.IMAGE


def test_every_stage_has_a_service(services: dict[str, Any]) -> None:
    for stage in STAGES:
        assert services[stage]["command"] == ["worker", stage]
        assert services[stage]["secrets"] == ["worker-token"]
        assert services[stage]["environment"]["BEEFLINE_WORKER_HTTP_TOKEN_FILE"] == "/run/secrets/worker-token"


def test_every_command_is_understood(services: dict[str, Any]) -> None:
    """As the command line would: it refuses a command, a stage or an option that it does not know."""
    for name, service in services.items():
        if name == "broker":
            continue
        assert service["build"] == ".", name
        words = list(service["command"])
        command: click.Command = main
        context = main.make_context("beefline", list(words))
        while isinstance(command, click.Group):
            word = words.pop(0)
            found = command.get_command(context, word)
            assert found, f"{name}: {word}"
            command = found
            context = command.make_context(word, list(words), parent=context)
    dialects = {s["command"][3] for s in services.values() if s.get("command", [])[:2] == ["simulate", "headers"]}
    assert dialects == {"bhs", "chaintracks", "woc"}


def test_every_variable_is_a_setting(services: dict[str, Any]) -> None:
    for stage in STAGES:
        settings = load(environment=services[stage]["environment"]).settings
        assert settings.kafka.bootstrap == "broker:9092"
        assert (settings.topics.replication, settings.topics.min_isr) == (1, 1)
        assert len(settings.trackers.trackers) == 3


def test_services_of_workers_are_among_those_that_run(services: dict[str, Any]) -> None:
    """Each host a worker is told to call is a service that listens beyond its own loopback."""
    told = services["verify"]["environment"]
    named = f"{told['BEEFLINE_TRACKERS_TRACKERS']},{told['BEEFLINE_BROADCAST_ENDPOINTS']}".split(",")
    assert len(named) == 4
    for entry in named:
        dialect, _, url = entry.partition("=")
        host, _, port = url.removeprefix("http://").partition(":")
        command = services[host]["command"]
        assert dialect in command, entry
        assert command[command.index("--host") + 1] == "0.0.0.0"
        assert command[command.index("--port") + 1] == port


def test_what_is_kept_is_kept_in_named_volumes(services: dict[str, Any]) -> None:
    named = set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    mounted = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert mounted == named
