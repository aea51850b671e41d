"""The token and the TLS files of a server."""

from __future__ import annotations

import ssl
from pathlib import Path

from ascend_parallel.checks import check_file
from ascend_parallel.errors import UsageError

__all__ = ["check_tls", "read_token"]


def read_token(path: str) -> str:
    """Return the bearer token that a file contains; blanks and line ends around it do not count.

    Raises:
        UsageError: the file does not exist, cannot be read, or does not contain exactly one word.
    """
    check_file("token file", path)
    try:
        token = Path(path).read_text("ascii").strip()
    except OSError as error:
        raise UsageError(f"the token file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the token file {path} is not ASCII text; expected one word, the token") from None
    if not token or not token.isprintable() or " " in token:
        kind = "does not contain one word" if token else "is empty"
        raise UsageError(f"the token file {path} {kind}; expected the token, such as one of: openssl rand -hex 32")
    return token


def check_tls(cert: str, key: str) -> None:
    """Check that a certificate and its private key can be used; raises UsageError."""
    check_file("TLS certificate", cert)
    check_file("TLS key", key)
    try:
        # An empty password: without one, OpenSSL would ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UsageError(
            f"{cert} and {key} are not a certificate and its private key ({error}); expected PEM files, "
            "the key without a password"
        ) from None
