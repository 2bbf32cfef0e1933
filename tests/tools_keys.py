"""Keys of senders, made for the tests: private ones to sign with, public ones to be pinned or served."""

from __future__ import annotations

import datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2045, 1, 1, tzinfo=datetime.UTC)


def private_key(kind: str, seed: int = 1) -> PrivateKeyTypes:
    """A key of a kind: rsa, ed25519, p256 or p384; the same for the same seed, in one run of the tests."""
    return _make_key(kind, seed)


@cache
def _make_key(kind: str, _: int) -> PrivateKeyTypes:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if kind == "p256" else ec.SECP384R1())


def private_pem(kind: str, seed: int = 1) -> str:
    """The key, to sign with."""
    return private_key(kind, seed).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(kind: str, seed: int = 1) -> str:
    """The key, to verify with."""
    return private_key(kind, seed).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class Authority:
    """Gives certificates, for names and a time."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = name
        self.certificate = self._give(name, self._key, START, END, is_authority=True)

    def give(
        self,
        name: str,
        key: CertificateIssuerPrivateKeyTypes,
        start: datetime.datetime = START,
        end: datetime.datetime = END,
    ) -> x509.Certificate:
        """A server's certificate."""
        return self._give(name, key, start, end, is_authority=False)

    def _give(
        self,
        name: str,
        key: CertificateIssuerPrivateKeyTypes,
        start: datetime.datetime,
        end: datetime.datetime,
        *,
        is_authority: bool,
    ) -> x509.Certificate:
        public, issuer = key.public_key(), self._key.public_key()
        made = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self._name))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
            .add_extension(_usage(is_authority=is_authority), critical=True)
        )
        if not is_authority:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        return made.sign(self._key, SHA256())


def pem(certificate: x509.Certificate) -> str:
    """As it is served."""
    return certificate.public_bytes(Encoding.PEM).decode()


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
