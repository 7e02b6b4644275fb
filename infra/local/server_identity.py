"""The certificate by which the components of the embedded S3 server authenticate each other.

SeaweedFS runs a master, a volume server, a filer, an S3 gateway and an admin server, which speak HTTP and gRPC
with each other. By default only the S3 port requires credentials, and the master deletes a bucket for any client.
With this certificate every other port requires mutual TLS. The key is generated at each start and stored in a folder
that only its owner can read.
"""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.local.connection import replace_private

LIFE = dt.timedelta(days=3650)
"""The certificate's lifetime. A server may run for years, and only a start renews the certificate."""
CLOCK_SKEW = dt.timedelta(days=1)

# Components that do not run here are listed too, so that one which a later version starts is protected.
_GRPC = ("master", "volume", "filer", "s3", "admin", "worker", "client", "msg_broker", "msg_agent", "mq")
_HTTPS = ("master", "volume", "filer", "admin", "client")


class ServerIdentity:
    """A key and its self-signed certificate, which serves as server, client and the only trusted CA."""

    def __init__(self, folder: Path, address: str) -> None:
        """`address` is the IPv4 address at which the components reach each other."""
        self._folder = folder
        self._address = address
        self._certificate = folder / "certificate.pem"
        self._key = folder / "key.pem"

    def renew(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        replace_private(self._key, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode())
        replace_private(self._certificate, _self_signed(key, self._address).public_bytes(pem).decode())

    def environment(self) -> dict[str, str]:
        """Return the entries of SeaweedFS's security.toml as the WEED_* variables that it also reads."""
        certificate, key = str(self._certificate), str(self._key)
        found = {"WEED_GRPC_CA": certificate, "WEED_HTTPS_CLIENT_ENABLED": "true"}
        for kind, parts in (("GRPC", _GRPC), ("HTTPS", _HTTPS)):
            for part in parts:
                found[f"WEED_{kind}_{part.upper()}_CERT"] = certificate
                found[f"WEED_{kind}_{part.upper()}_KEY"] = key
        return found | {f"WEED_HTTPS_{part.upper()}_CA": certificate for part in _HTTPS}


def _self_signed(key: ec.EllipticCurvePrivateKey, address: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "comfyui-modal embedded S3 server")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return (
        builder.not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
