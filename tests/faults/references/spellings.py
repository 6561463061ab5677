"""Addresses that are not public, in every spelling that some resolver, parser or browser has taken for them."""

import random
from ipaddress import IPv4Address, IPv6Address
from typing import Final

THIS_MACHINE: Final = "127.0.0.1"
METADATA: Final = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192")
"""Where clouds hand out credentials: AWS, Google, Azure's agent and Oracle; ECS; Alibaba; Azure; Oracle of old."""

INTERNAL_IPV4: Final = (
    THIS_MACHINE, "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.1.1",  # noqa: S104
    "100.64.0.1", "198.18.0.1", "192.0.2.1", "224.0.0.1", "255.255.255.255", *METADATA,
)  # fmt: skip
INTERNAL_IPV6: Final = (
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "100::1",
)
_FULL_WIDTH: Final = str.maketrans("0123456789abcdefx", "０１２３４５６７８９ａｂｃｄｅｆｘ")
_CIRCLED: Final = str.maketrans("0123456789", "⓪①②③④⑤⑥⑦⑧⑨")
_DOTS: Final = "。．｡"


def numeric(address: str) -> list[str]:
    """As inet_aton reads it: fewer parts, other bases, leading zeros."""
    value, parts = int(IPv4Address(address)), [int(part) for part in address.split(".")]
    short = [f"{parts[0]}.{value & 0xFFFFFF}", f"{parts[0]}.{parts[1]}.{value & 0xFFFF}", str(value)]
    octal = [".".join(f"0{part:o}" for part in parts), ".".join(f"{part:011o}" for part in parts), f"0{value:o}"]
    hexadecimal = [".".join(f"0x{part:x}" for part in parts), f"0x{value:x}", f"0X{value:08X}"]
    mixed = [f"0x{parts[0]:x}.0{parts[1]:o}.{value & 0xFFFF}", f"{parts[0] + 256}.{parts[1]}.{parts[2]}.{parts[3]}"]
    overflowing = [str(value + (1 << 32)), f"{parts[0]}.{parts[1]}.{parts[2]}.{parts[3] + 256}"]
    return [address, f"{address}.", *short, *octal, *hexadecimal, *mixed, *overflowing]


def written_otherwise(address: str) -> list[str]:
    """With characters that normalisation makes digits and dots of, or percent signs."""
    return [
        address.translate(_FULL_WIDTH),
        address.translate(_CIRCLED),
        *(address.replace(".", dot) for dot in _DOTS),
        "".join(f"%{ord(character):02x}" for character in address),
        address.replace(".", "%2e"),
        address.replace(".", "\u200b."),
        f"{address}%00.example.com",
        f"{address}\u00ad",
    ]


def embedded(address: str) -> list[str]:
    """IPv6 addresses that carry an IPv4 one."""
    high, low = divmod(int(IPv4Address(address)), 1 << 16)
    teredo = IPv6Address((0x2001 << 112) | (0x5DB8D822 << 64) | (int(IPv4Address(address)) ^ 0xFFFFFFFF))
    return [
        f"[::ffff:{address}]", f"[::ffff:{high:x}:{low:x}]", f"[0:0:0:0:0:FFFF:{high:04X}:{low:04X}]", f"[::{address}]",
        f"[::ffff:0:{address}]", f"[64:ff9b::{address}]", f"[64:ff9b::{high:x}:{low:x}]", f"[64:ff9b:1::{address}]",
        f"[2002:{high:x}:{low:x}::]", f"[2002:{high:x}:{low:x}::1]", f"[{teredo}]", f"[::ffff:{address}%25lo]",
    ]  # fmt: skip


def of_ipv6(address: str) -> list[str]:
    """Literals of an IPv6 address."""
    return [f"[{address}]", f"[{IPv6Address(address).exploded}]", f"[{address.upper()}]", f"[{address}%25lo]"]


def hosts() -> list[str]:
    """All of them."""
    found = [host for ipv6 in INTERNAL_IPV6 for host in of_ipv6(ipv6)]
    for address in INTERNAL_IPV4:
        found += [*numeric(address), *written_otherwise(address), *embedded(address)]
    return list(
        dict.fromkeys([*found, "localhost", "LOCALHOST", "localhost.", "ｌｏｃａｌｈｏｓｔ", "localhost.localdomain"])
    )


def disguised(host: str, port: int) -> list[str]:
    """URLs in which a reader may see another host than a parser does."""
    there = f"{host}:{port}"
    return [
        f"http://{there}/", f"https://{there}/", f"HTTP://{there}", f"http:{there}", f"http:///{there}/",
        f"http://good.example@{there}/", f"http://good.example:80@{there}/", f"http://good.example%40{there}/",
        f"http://{there}#@good.example/", f"http://{there}?@good.example/", f"http://good.example\\@{there}/",
        f"http://{there}\\@good.example/", f"http://good.example#@{there}/", f"http://a@b@{there}/",
        f"http://good.example&@{there}#@x/", f"http://\t{there}/", f"http://{there}\r\nHost: good.example/",
        f"http:\\\\{there}\\", f"//{there}/", f" http://{there}/", f"http://good.example%0d%0a@{there}/",
    ]  # fmt: skip


def random_reference(rng: random.Random, port: int) -> str:
    """Any disguise of any spelling of any address that is not public."""
    address = rng.choice([THIS_MACHINE, rng.choice(INTERNAL_IPV4), str(IPv4Address((127 << 24) + rng.getrandbits(24)))])
    host = rng.choice([*numeric(address), *written_otherwise(address), *embedded(address)])
    if rng.random() < 0.2:
        place = rng.randrange(len(host) + 1)
        host = host[:place] + rng.choice(["0", ".", "%", "\u00b7", "x", ":", "@", "[", "\u3002"]) + host[place:]
    return rng.choice(disguised(host, port))
