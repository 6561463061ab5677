"""Hostile values of messages: JSON that is none, fields that are not what they should be, ids that are not to be."""

import base64
import json
from typing import Final

from tests.faults.bad_input import pngs
from tests.faults.bad_input.case import ACCEPTED, Case, Kind

INT64_MAX: Final = 2**63 - 1
PICTURE: Final = base64.b64encode(pngs.png(head=pngs.header(64, 64), data=pngs.rows(64, 64))).decode()
_IMAGES: Final = f'[{{"data": "{PICTURE}"}}]'
_DEEP: Final = 100_000
_MALFORMED: Final = frozenset({"bad_json", "bad_event"})
"""What is neither of the right type nor JSON is refused for what is noticed first."""

# The name says what it is; a value that is JSON of its type is accepted where a field's own rules allow it.
_STRINGS: Final = {
    "a word": '"x"', "an empty string": '""', "a NUL": '"\\u0000"', "an emoji": '"\\ud83d\\ude00"',
    "right to left": '"\u202eabc"',
    "a string of 5,000": '"%s"' % ("x" * 5000), "half a million combining marks": '"e%s"' % ("\u0301" * 500_000),
}  # fmt: skip
_NUMBERS: Final = {
    "zero": "0", "minus one": "-1", "a fraction": "1.5", "a whole fraction": "1.0", "an exponent": "1e3",
    "2^63 - 1": str(INT64_MAX),
    "2^63": str(2**63), "2^64": str(2**64), "a thousand digits": "9" * 1000, "five thousand digits": "9" * 5000,
    "1e400": "1e400",
}  # fmt: skip
_OTHER_TYPES: Final = {
    "true": "true", "an array": "[]", "an object": "{}", "nested arrays": "[[[[[[]]]]]]",
    "an array of a million": f"[{'0,' * 999_999}0]",
}  # fmt: skip
_NOT_JSON: Final = {
    "NaN": "NaN", "Infinity": "Infinity", "minus Infinity": "-Infinity", "hexadecimal": "0x1", "a leading zero": "01",
    "1_000": "1_000",
    "single quotes": "'x'", "undefined": "undefined", "nothing": "", "a line end in a string": '"a\nb"',
    "no end of a string": '"x',
    "half a surrogate pair": '"\\ud800"', "the other half": '"\\udc00x"', "an escape that is none": '"\\x00"',
    "a comment": "/**/1",
    "arrays without end": "[" * _DEEP, "objects without end": '{"a":' * _DEEP, "True": "True", "None": "None",
    "a plus": "+1",
}  # fmt: skip
_FIELDS: Final[dict[Kind, tuple[str, ...]]] = {
    "design": ("images", "data", "uri", "category", "title", "tenant", "generator", "created_at"),
    "item": ("images", "data", "uri", "category", "title", "tenant", "version", "design_id"),
}
_LONGEST: Final = {"title": 2000, "uri": 4096}


def _with(field: str, value: str) -> str:
    """An event in which one field has a value, as JSON text."""
    if field == "images":
        return f'{{"images": {value}}}'
    if field in {"data", "uri"}:
        return f'{{"images": [{{"{field}": {value}}}]}}'
    return f'{{"images": {_IMAGES}, "{field}": {value}}}'


def _of_string(field: str, text: str) -> frozenset[str]:
    value = json.loads(text)
    if field == "data":
        return frozenset({"bad_event", "not_an_image"}) if value else frozenset({"empty_image"})
    if field in {"images", "created_at", "version"} or len(value) > _LONGEST.get(
        field, 256 if field == "design_id" else 200
    ):
        return frozenset({"bad_event"})
    if field == "uri":
        return frozenset({"bad_uri"})
    if field == "tenant":
        return frozenset({"unknown_tenant"})
    if field == "design_id" and value in {"", "\0"}:
        return frozenset({"bad_event"})
    return ACCEPTED


def fields() -> list[Case]:
    """Every field with everything that it should not be."""
    cases = []
    for kind, names in _FIELDS.items():
        for field in names:
            wanted: dict[str, tuple[str, frozenset[str]]] = {
                name: (text, _of_string(field, text)) for name, text in _STRINGS.items()
            }
            for name, text in {**_NUMBERS, **_OTHER_TYPES}.items():
                fits = field == "version" and text.isdigit() and int(text[:1000]) <= INT64_MAX
                wanted[name] = (text, ACCEPTED if fits else frozenset({"bad_event"}))
            wanted["1e400"] = ("1e400", _MALFORMED)
            wanted["null"] = ("null", ACCEPTED if field in {"created_at", "design_id"} else frozenset({"bad_event"}))
            wanted |= {name: (text, _MALFORMED) for name, text in _NOT_JSON.items()}
            cases += [
                Case(f"{field}: {name}", kind, _with(field, text).encode(), reasons)
                for name, (text, reasons) in wanted.items()
            ]
    return cases


def values() -> list[Case]:
    """Whole values that are no event, or an odd one."""
    good = _with("title", '"x"')
    none = frozenset({"bad_json"})
    event = frozenset({"bad_event"})
    many = b"".join(b', "f%d": %d' % (n, n) for n in range(100_000))
    raw: dict[str, tuple[bytes, frozenset[str]]] = {
        "no bytes": (b"", none), "a zero byte": (b"\0", none), "zero bytes": (bytes(100_000), none),
        "spaces": (b" " * 100_000, none),
        "null": (b"null", event), "a number": (b"1", event), "a string": (b'"x"', event), "an array": (b"[]", event),
        "an object": (b"{}", event), "NaN": (b"NaN", none), "XML": (b"<x/>", none),
        "MessagePack": (b"\x81\xa6images\x90", none),
        "Avro's header": (b"\0\0\0\0\1" + good.encode(), none),
        "a byte order mark": (b"\xef\xbb\xbf" + good.encode(), none),
        "UTF-16": (good.encode("utf-16"), none), "UTF-32": (good.encode("utf-32"), none),
        "Latin-1": (b'{"images":"\xe9"}', _MALFORMED),
        "two values": (good.encode() * 2, none), "text behind it": (good.encode() + b" x", none),
        "cut off": (good.encode()[:-1], none),
        "cut off in the middle": (good.encode()[:99], none), "gzip": (b"\x1f\x8b\x08" + bytes(20), none),
        "arrays 100,000 deep": (b"[" * _DEEP + b"]" * _DEEP, _MALFORMED),
        "objects 100,000 deep": (b'{"a":' * _DEEP + b"1" + b"}" * _DEEP, none),
        "an unknown field 100,000 deep": (good[:-1].encode() + b', "x": ' + b"[" * _DEEP + b"]" * _DEEP + b"}", none),
        "an unknown field 500 deep": (good[:-1].encode() + b', "x": ' + b"[" * 500 + b"]" * 500 + b"}", ACCEPTED),
        "unknown fields": (good[:-1].encode() + b', "a": 1, "__proto__": {"x": 1}, "": null}', ACCEPTED),
        "100,000 unknown fields": (good[:-1].encode() + many + b"}", ACCEPTED),
        "megabytes of an unknown field": (good[:-1].encode() + b', "x": "' + b"x" * 3_000_000 + b'"}', ACCEPTED),
        "a field twice": (good[:-1].encode() + b', "title": "y"}', ACCEPTED),
        "a field twice, the second one wrong": (good[:-1].encode() + b', "title": 1}', event),
        "images twice": (good[:-1].encode() + b', "images": []}', event),
        "names in capitals": (b'{"Images": %s}' % _IMAGES.encode(), event), "no images": (b'{"title": "x"}', event),
        "an escaped name": (b'{"\\u0069mages": %s}' % _IMAGES.encode(), ACCEPTED),
        "spaces everywhere": (b" \t\r\n" * 20_000 + good.encode() + b"\n" * 20_000, ACCEPTED),
    }  # fmt: skip
    lists = {
        "no image": ("[]", event), "null": ("[null]", event), "a number": ("[1]", event), "a string": ('["x"]', event),
        "an array": ("[[]]", event), "an empty object": ("[{}]", event),
        "both ways": (f'[{{"data": "{PICTURE}", "uri": "https://h/x"}}]', event),
        "both null": ('[{"data": null, "uri": null}]', event),
        "an unknown field in an image": (f'[{{"data": "{PICTURE}", "x": 1}}]', event),
        "nine": (f"[{', '.join([_IMAGES[1:-1]] * 9)}]", event),
        "a hundred thousand": (f"[{', '.join(['{}'] * 100_000)}]", event),
        "eight": (f"[{', '.join([_IMAGES[1:-1]] * 8)}]", ACCEPTED), "an object": ('{"0": {}}', event),
        "the eighth of no picture": (
            f'[{", ".join([_IMAGES[1:-1]] * 7)}, {{"data": "AAAA"}}]',
            frozenset({"not_an_image"}),
        ),
    }  # fmt: skip
    for name, text in {
        "not in its alphabet": "!!!!", "of its other alphabet": "-_-_" * 9, "with line ends": "AAAA\\nAAAA",
        "with spaces": "AA AA",
        "of a wrong length": "AAAAA", "padded in the middle": "AA==AAAA", "padded too much": "AAAA====",
        "only padding": "====",
        "of other letters": "ÄÄÄÄ", "twice": base64.b64encode(PICTURE.encode()).decode(),
        "as a data URI": f"data:image/png;base64,{PICTURE}",
        "in hexadecimal": "89504e470d0a1a0a", "of a zero byte": "AA==", "of a NUL": "\\u0000",
    }.items():  # fmt: skip
        lists[f"base64 {name}"] = (f'[{{"data": "{text}"}}]', frozenset({"bad_event", "not_an_image"}))
    made = {**raw, **{f"images: {name}": (_with("images", text).encode(), why) for name, (text, why) in lists.items()}}
    kinds: tuple[Kind, ...] = ("design", "item")
    return [Case(name, kind, value, why) for kind in kinds for name, (value, why) in made.items()]


_NAMES: Final[dict[str, tuple[bytes | None, bool]]] = {
    "none": (None, False), "empty": (b"", False), "a NUL": (b"\0", False), "a NUL inside": (b"a\0b", False),
    "a line end": (b"\n", False),
    "a line end behind it": (b"abc\n", False), "CR and LF behind it": (b"abc\r\n", False),
    "a line end inside": (b"a\nb", False),
    "a tab": (b"a\tb", False), "an escape": (b"\x1b[2J", False), "a delete": (b"a\x7f", False),
    "one byte of UTF-8": (b"\xff", False),
    "an overlong slash": (b"\xc0\xaf", False), "a surrogate": (b"\xed\xa0\x80", False),
    "a pair of them": (b"\xed\xa0\xbd\xed\xb8\x80", False),
    "beyond Unicode": (b"\xf4\x90\x80\x80", False), "UTF-16": ("abc".encode("utf-16"), False),
    "257 characters": (b"x" * 257, False),
    "a million characters": (b"x" * 1_000_000, False), "256 characters": (b"y" * 256, True),
    "256 emoji": ("\U0001f600".encode() * 256, True),
    "257 emoji": ("\U0001f600".encode() * 257, False), "right to left": ("שלום".encode(), True),
    "an override": ("\u202eabc".encode(), True),
    "combining marks": (("e" + "\u0301" * 255).encode(), True), "composed": ("é".encode(), True),
    "decomposed": ("e\u0301".encode(), True),
    "of no width": ("\u200b".encode(), True), "a line separator": ("\u2028".encode(), True),
    "a byte order mark": ("\ufeff".encode(), True),
    "a space": (b" ", True), "dots": (b"../../etc/passwd", True), "SQL": (b"'; DROP TABLE state; --", True),
    "a filter": (b'" or "" == "', True),
    "a format": (b"%s%n{0}{{}}", True), "HTML": (b"<script>alert(1)</script>", True), "JSON": (b'{"a": 1}', True),
    "null": (b"null", True),
    "a number": (b"0", True), "a private character": ("\ue000".encode(), True),
    "none at all": ("\uffff".encode(), True),
}  # fmt: skip


def names() -> list[Case]:
    """Keys, and the same as the `design_id` of an item."""
    kinds: tuple[Kind, ...] = ("design", "item")
    cases = []
    for name, (key, good) in _NAMES.items():
        why = ACCEPTED if good else frozenset({"bad_key"})
        cases += [Case(f"key: {name}", kind, _with("title", '"x"').encode(), why, key, True) for kind in kinds]
        cases += [Case(f"key of a tombstone: {name}", "design", None, why, key, True)]
        if key is not None and name not in {"one byte of UTF-8", "an overlong slash", "a surrogate", "a pair of them"}:
            try:
                text = json.dumps(key.decode())
            except UnicodeDecodeError:
                continue
            reasons = ACCEPTED if good else frozenset({"bad_event"})
            cases.append(Case(f"design_id: {name}", "item", _with("design_id", text).encode(), reasons))
    return cases


def of_file(data: bytes) -> bytes:
    """An event with one file inline."""
    return _with("data", json.dumps(base64.b64encode(data).decode())).encode()


def of_reference(uri: str) -> bytes:
    """An event with one reference."""
    return json.dumps({"images": [{"uri": uri}]}).encode()
