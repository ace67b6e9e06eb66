"""A listener with TLS, names and passwords for a local broker; its certificate authority is made with Java's keytool.

For showing that clients are configured rightly. Production brokers bring their own certificates.
"""

import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ops.broker.java import program
from ops.broker.record import Secure
from ops.broker.trouble import BrokerError

USER = "beefline"
DAYS = "3650"
KEYS = ("-keyalg", "EC", "-groupname", "secp256r1")
KEYTOOL_WITHIN_S = 30.0


def secure(folder: Path, bootstrap: str) -> Secure:
    """How clients reach the listener; the files are in `folder`."""
    return Secure(
        bootstrap=bootstrap, ca_file=str(folder / "ca.pem"), user=USER, password_file=str(folder / "password")
    )


def make(folder: Path) -> None:
    """Make the authority, the certificate (for 127.0.0.1 and localhost) and the passwords, unless they are there.

    Raises:
        BrokerError: keytool is missing or refuses.
    """
    if (folder / "ca.pem").exists():  # written last
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("keys.p12", "server.csr", "server.pem"):
        (folder / name).unlink(missing_ok=True)
    for name in ("password", "store-password"):
        _keep(folder / name, secrets.token_urlsafe(24))
    store = (
        "-keystore",
        str(folder / "keys.p12"),
        "-storetype",
        "PKCS12",
        "-storepass:file",
        str(folder / "store-password"),
    )
    names = "san=ip:127.0.0.1,dns:localhost"
    request, signed = str(folder / "server.csr"), str(folder / "server.pem")
    # fmt: off
    _keytool("-genkeypair", *store, *KEYS, "-alias", "ca", "-dname", "CN=beefline local CA", "-validity", DAYS,
             "-ext", "bc:c", "-ext", "ku:c=keyCertSign")
    _keytool("-genkeypair", *store, *KEYS, "-alias", "server", "-dname", "CN=127.0.0.1", "-validity", DAYS)
    _keytool("-certreq", *store, "-alias", "server", "-file", request)
    _keytool("-gencert", *store, "-alias", "ca", "-infile", request, "-outfile", signed, "-ext", names,
             "-validity", DAYS, "-rfc")
    _keytool("-importcert", *store, "-alias", "server", "-file", signed, "-noprompt")
    # fmt: on
    (folder / "ca.pem").write_text(_keytool("-exportcert", *store, "-alias", "ca", "-rfc"))


def properties(listener: Secure) -> dict[str, str]:
    """The broker's configuration of the listener named SECURE.

    PLAIN checks the name and password in the configuration; SCRAM those stored at format.
    """
    folder = Path(listener.ca_file).parent
    password = Path(listener.password_file).read_text()
    store = (folder / "store-password").read_text()
    module = "org.apache.kafka.common.security"
    at = "listener.name.secure."
    return {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
        f"{at}sasl.enabled.mechanisms": ",".join(listener.mechanisms),
        f"{at}scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        f"{at}plain.sasl.jaas.config": f'{module}.plain.PlainLoginModule required user_{listener.user}="{password}";',
        f"{at}ssl.keystore.type": "PKCS12",
        f"{at}ssl.keystore.location": str(folder / "keys.p12"),
        f"{at}ssl.keystore.password": store,
        f"{at}ssl.key.password": store,
    }


def scram(listener: Secure) -> str:
    """The user, as the tool that makes the data folder takes it."""
    return f"SCRAM-SHA-512=[name={listener.user},password={Path(listener.password_file).read_text()}]"


def _keep(file: Path, content: str) -> None:
    file.touch(mode=0o600)
    file.write_text(content)


def _keytool(*arguments: str) -> str:
    keytool = program("keytool")
    if keytool is None:
        raise BrokerError("keytool, which makes the certificates and comes with Java, was not found (install a JDK).")
    command: Sequence[str] = [keytool, "-J-XX:TieredStopAtLevel=1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=KEYTOOL_WITHIN_S, check=False)
    if done.returncode != 0:
        raise BrokerError(f"keytool {arguments[0]} failed: {(done.stdout + done.stderr).strip()}")
    return done.stdout
