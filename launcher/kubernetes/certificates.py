"""Makes a job's TLS certificate: self-signed, for its coordinator alone, pinned by everybody who talks to it."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, field

from edl_allreduce import cluster, extras

VALID_DAYS = 3650  # a job has no other certificate, however long it lasts


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM texts."""

    certificate: str
    key: str = field(repr=False)


def make_certificate(job: str, namespace: str, now: datetime.datetime) -> Certificate:
    """A certificate for the name under which pods find a job's coordinator, and for the near end of a tunnel.

    Args:
        now: with a time zone; the certificate is valid from a day before, since clocks differ.

    Raises:
        UsageError: the package cryptography is not installed.
    """
    extras.need("cryptography", "kubernetes", "running a job on Kubernetes")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    host = cluster.service_name(job, namespace)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, job)])
    names = [
        *(x509.DNSName(each) for each in (host, f"{host}.cluster.local", f"{job}.{namespace}", job, "localhost")),
        x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
    ]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(made.public_bytes(serialization.Encoding.PEM).decode(), private.decode())
