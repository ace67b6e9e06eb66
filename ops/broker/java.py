"""Java, and Kafka's jars, which Maven fetches once."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ops.broker.record import KAFKA_VERSION, locked
from ops.broker.trouble import BrokerError

HERE = Path(__file__).parent
NEEDED = 17
"""Kafka 4's brokers and tools run on Java 17 or newer."""

COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
FETCH_WITHIN_S = 600.0
ASK_WITHIN_S = 20.0

TOOL_FLAGS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
"""A tool lives for a second: half the start-up time of the defaults (0.8 s instead of 1.4 s on two cores)."""


class Java:
    """A Java that can run Kafka, and the folder with Kafka's jars."""

    def __init__(self, program: str, libs: Path) -> None:
        self.program = program
        self.libs = libs

    def tool(self, main: str, arguments: Sequence[str]) -> list[str]:
        """Command of one of Kafka's own tools; what it logs goes to standard error, errors only."""
        log = f"-Dlog4j2.configurationFile={HERE / 'tools.log4j2.properties'}"
        return [self.program, *TOOL_FLAGS, log, "-cp", f"{self.libs}/*", main, *arguments]

    def broker(self, heap_mb: int, compiler: Sequence[str], log: Path, properties: Path) -> list[str]:
        """Command of a broker."""
        return [
            self.program,
            f"-Xmx{heap_mb}m",
            f"-Xms{heap_mb}m",
            *compiler,
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:+ExitOnOutOfMemoryError",  # a broker without memory answers slowly and wrongly; a dead one is noticed
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
            f"-Dbeefline.log={log}",
            "-cp",
            f"{self.libs}/*",
            "kafka.Kafka",
            str(properties),
        ]


def program(name: str) -> str | None:
    """Path of one of Java's programs: in JAVA_HOME, else on PATH."""
    named = os.environ.get("JAVA_HOME")
    inside = shutil.which(name, path=str(Path(named) / "bin")) if named else None
    return inside or shutil.which(name)


def lacking() -> str:
    """What keeps Java from running Kafka here, in a sentence; empty if nothing does."""
    if sys.platform != "linux":
        return "Kafka's jars: started here on Linux only (their processes are found again by /proc)"
    java = program("java")
    if java is None:
        return f"Java {NEEDED} or newer: not found (install a JDK, or set JAVA_HOME)"
    found = version(java)
    if found is None:
        return f"Java {NEEDED} or newer: {java} does not run"
    return (
        ""
        if found >= NEEDED
        else f"Java {NEEDED} or newer: {java} is Java {found} (install a newer JDK, or set JAVA_HOME)"
    )


def version(java: str) -> int | None:
    """Major version of a Java; None if it does not say."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=ASK_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', said.stderr)
    return int(match[1]) if match else None


def lacking_jars(cache: Path) -> str:
    """What keeps us from having Kafka's jars, in a sentence; empty if they are here or can be fetched."""
    if folder(cache).is_dir() or shutil.which("mvn"):
        return ""
    return "Maven, which fetches Kafka's jars for Java: not found (install `mvn`)"


def folder(cache: Path) -> Path:
    """Where the jars are kept."""
    return cache / f"kafka-{KAFKA_VERSION}"


def get(cache: Path, say: Callable[[str], None]) -> Java:
    """Java and the jars, fetched if need be.

    Raises:
        BrokerError: no Java, no Maven, or Maven could not fetch.
    """
    java = program("java")
    missing = lacking() or lacking_jars(cache)
    if java is None or missing:
        raise BrokerError(missing)
    libs = folder(cache)
    if not libs.is_dir():
        with locked(cache):
            if not libs.is_dir():  # another home may have fetched them while we waited
                _fetch(libs, say)
    return Java(java, libs)


def _fetch(libs: Path, say: Callable[[str], None]) -> None:
    say(f"Fetching Kafka {KAFKA_VERSION} by Maven, once, into {libs} …")
    part = libs.with_name(libs.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    command = [
        "mvn",
        "-q",
        "-B",
        "-f",
        str(HERE / "pom.xml"),
        COPY,
        "-DincludeScope=runtime",
        f"-DoutputDirectory={part}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_WITHIN_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"Maven did not fetch Kafka {KAFKA_VERSION} within {FETCH_WITHIN_S:.0f} s.") from error
    if done.returncode != 0:
        raise BrokerError(
            f"Maven could not fetch Kafka {KAFKA_VERSION}:\n{done.stdout.strip()[-2000:]}{done.stderr.strip()[-500:]}"
        )
    part.rename(libs)
