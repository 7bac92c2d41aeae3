"""The address of a node, as people write it."""

import re
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_PORTS = {"http": 80, "https": 443}


class Target(NamedTuple):
    """The parts of a node's address."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def host_field(self) -> str:
        """The value of the header ``Host``.

        :raises UnicodeError: the host cannot be a name
        """
        host = self.host if self.host.isascii() else self.host.encode("idna").decode()
        if ":" in host:
            # The zone of an IPv6 address means nothing on another machine.
            host = f"[{host.partition('%')[0]}]"
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse(address: str) -> Target:
    """The parts of an address.

    :raises ValueError: it is none, and why
    """
    if re.search(r"[\s\x00-\x1f\x7f]", address):
        raise ValueError("it contains a space or a control character")
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{parts.scheme} is not spoken, use http")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("expected http://host:port")
    if not parts.hostname or parts.netloc.endswith(":"):
        raise ValueError("expected http://host:port")
    host_and_port = parts.netloc.rsplit("]", 1)[-1]
    if host_and_port.count(":") > 1:
        raise ValueError("an IPv6 address stands in brackets, as http://[::1]:8080")
    port = parts.port if parts.port is not None else _PORTS[parts.scheme]
    if port == 0:
        raise ValueError("port 0 cannot be reached")
    return Target(parts.scheme, parts.hostname, port, quote(parts.path.rstrip("/"), safe="/%"))
