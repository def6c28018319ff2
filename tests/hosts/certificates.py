"""An authority of the test's own, and certificates of hosts."""

from __future__ import annotations

import datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.hosts.host import Host

CA, CERTIFICATE, KEY = "/srv/tls/ca.pem", "/srv/tls/host.pem", "/srv/tls/host.key"
_DAY = datetime.timedelta(days=1)
_VALID = datetime.timedelta(days=30)
"""`rayloop doctor` reports what expires within 14."""


class Authority:
    """Issues certificates."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("Authority of the tests")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        self.certificate = _pem(builder.sign(self._key, hashes.SHA256()))

    def trust(self, host: Host) -> None:
        """Place the authority's certificate on a host."""
        host.write(CA, self.certificate, mode=0o644)

    def equip(self, host: Host) -> None:
        """Place on a host its key and its certificate, which holds its name and its address, and the authority's."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(host.name), x509.DNSName("localhost"), x509.IPAddress(ip_address(host.address))]
        builder = _builder(_name(host.name), self._name, key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.trust(host)
        host.write(KEY, key.private_bytes(*form))
        host.write(CERTIFICATE, _pem(builder.sign(self._key, hashes.SHA256())), mode=0o644)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    # Valid since yesterday: a host's clock may be behind.
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return builder.not_valid_before(now - _DAY).not_valid_after(now + _VALID)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
