# SPDX-License-Identifier: MIT
"""The strict scanner (proto/json-scan.c, called through scan-json) against Python's json: cases in the manner of JSONTestSuite,
written for this test, then seeded mutations. y_ must be accepted with the same value, n_ refused, and i_ are those where RFC
8259 leaves the choice or where we refuse on purpose: INTENDED is the complete list of differences, and a mutation that differs
in any other way is a failure."""
import json
import math
import random
import struct
import subprocess

import pytest

from conftest import BUILD_ASAN

SCAN = BUILD_ASAN + "/tests/t/scan-json"
INTEGER_MAX = 2**53 - 1
NUMBER_LENGTH, DEPTH, VALUES, BYTES = 128, 32, 10000, 1 << 20

# What Python accepts and we refuse, by the words of our refusal.
INTENDED = {
    "duplicate keys": "a duplicate key",
    "NaN and Infinity": "not a JSON value",
    "deeper than 32": "nested too deep",
    "more than 1 MiB": "at most 1048576 are allowed",
    "more than 10,000 values": "too many values",
    "integers beyond 2^53-1": "an integer beyond 2^53-1",
    "doubles out of range": "a number out of range",
    "numbers of more than 128 characters": "a number of more than 128 characters",
    "lone surrogates": "a lone surrogate",
    "NUL in a key": "NUL in a key",
}


def scan(texts):
    """(True, value) or (False, reason) for each."""
    p = subprocess.run([SCAN], input=b"".join(struct.pack("<I", len(t)) + t for t in texts), capture_output=True, timeout=300)
    assert p.returncode == 0, p.stderr.decode()
    lines = p.stdout.split(b"\n")[:-1]
    assert len(lines) == len(texts)
    return [(True, json.loads(line[4:])) if line.startswith(b"yes ") else (False, line[3:].decode()) for line in lines]


class Python:
    """The value that Python's json reads from a text, and every intended difference that it shows."""

    def __init__(self, text):
        self.seen, self.values = set(), 0
        self.accepted, self.value = False, None
        if len(text) > BYTES:
            self.seen.add("more than 1 MiB")
        try:
            self.value = json.loads(text.decode("utf-8"), object_pairs_hook=self.pairs, parse_constant=self.constant, parse_int=self.integer,
                                    parse_float=self.double)
        except (ValueError, RecursionError):
            return
        self.accepted = True
        self.walk(self.value, 0)
        if self.values > VALUES:
            self.seen.add("more than 10,000 values")

    def pairs(self, pairs):
        keys = [k for k, _ in pairs]
        if len(set(keys)) < len(keys):
            self.seen.add("duplicate keys")
        if any("\0" in k for k in keys):
            self.seen.add("NUL in a key")
        for k in keys:
            self.string(k)
        self.values -= len(pairs) - len(set(keys))
        return dict(pairs)

    def constant(self, name):
        self.seen.add("NaN and Infinity")
        return name

    def integer(self, text):
        self.length(text)
        if len(text) < 4000 and abs(int(text)) > INTEGER_MAX:
            self.seen.add("integers beyond 2^53-1")
        return int(text) if len(text) < 4000 else 0

    def double(self, text):
        self.length(text)
        if not math.isfinite(float(text)):
            self.seen.add("doubles out of range")
        return float(text)

    def length(self, text):
        if len(text) > NUMBER_LENGTH:
            self.seen.add("numbers of more than 128 characters")

    def string(self, text):
        if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
            self.seen.add("lone surrogates")

    def walk(self, value, depth):
        self.values += 1
        if isinstance(value, str):
            self.string(value)
        elif isinstance(value, (list, dict)):
            if depth >= DEPTH:
                self.seen.add("deeper than 32")
                return
            for child in value.values() if isinstance(value, dict) else value:
                self.walk(child, depth + 1)


def same(a, b):
    """Equal in type too: 1 is neither 1.0 nor true."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


YES = {
    "structure": ["{}", "[]", "null", "true", "false", "0", '""', '"a"', "[null]", "[true,false]", "[[]]", "[{}]", '{"a":{}}', '{"a":[]}', "[[],[]]",
                  "[[[[[]]]]]", '{"a":1,"b":2}', '{"a":{"a":{"a":1}}}', '[{"a":1},{"a":1}]', '{"":0}', '{"a":null}', "[1,2,3]", '[1,"a",null,true,{},[]]',
                  "[" * 32 + "]" * 32, "[" * 31 + "1" + "]" * 31, '{"a":' * 32 + "1" + "}" * 32, '{"k":[{"k":[{"k":[]}]}]}'],
    "space": [" 1", "1 ", "\t1", "1\n", "\r\n1\r\n", "[ ]", "{ }", "[ 1 , 2 ]", '{ "a" : 1 }', "[\n1\n,\n2\n]", ' \t\r\n{\t"a"\r:\n1 } ', '"a" ',
              " null\n", "[1\t]"],
    "numbers": ["-0", "1", "-1", "10", "123456789", "9007199254740991", "-9007199254740991", "0.5", "-0.5", "1.0", "0.0", "-0.0", "1e0", "1E0", "1e1",
                "1e+1", "1e-1", "1E+10", "0e0", "0E-0", "1.5e3", "-1.5E-3", "123.456e78", "1e308", "-1e308", "1e-400", "2.2250738585072014e-308", "5e-324",
                "0.1", "3.141592653589793", "1.7976931348623157e308", "1" + "0" * 15, "0." + "1" * 126, "1." + "0" * 126, "0e99999", "1.0e+00",
                "9007199254740993.0", "[-0]", "[0,0.0]", "1e00", "0.000000000000001", "1e22", "123e-10"],
    "strings": ['"\\""', '"\\\\"', '"\\/"', '"/"', '"\\b\\f\\n\\r\\t"', '"\\u0041"', '"\\u00e9"', '"\\u20ac"', '"\\uD83D\\uDE00"', '"\\ud83d\\ude00"',
                '"\\u0000"', '"a\\u0000b"', '"\\u001f"', '"\\u007f"', '"\\uffff"', '"\\ufffe"', '"\\u2028\\u2029"', '"\u00e9"', '"\u20ac"', '"\U0001f600"',
                '"\u2028\u2029"', '"\x7f"', '"\u0080"', '"\ud7ff"', '"\ue000"', '"\uffff"', '"\U0010ffff"', '"\ufeff"', '"\\uDBFF\\uDFFF"', '"\\uD800\\uDC00"',
                '"{"', '"[1,2]"', '"// no comment"', '"\\\\n"', '"\\\\u0041"', "\"'\"", '"' + "x" * 1000 + '"', '"\\u00E9\\u00e9"', '"null"', '["\\u0000\\u0000"]'],
    "keys": ['{"a":1,"A":2}', '{"a":1,"a ":2}', '{"\u00e9":1,"e":2}', '{"\\n":1}', '{"\\"":1}', '{"a\\/b":1}', '{"\\ud83d\\ude00":1}', '{"a":1,"b":{"a":1}}',
             '{"aa":1,"a":2,"":3}', '{"\\\\":1,"/":2}', '{"\u00e9":1,"e\u0301":2}', '{"__proto__":1}', '{"\\u0001":1}'],
}
NO = {
    "structure": ["", " ", "[", "]", "{", "}", "[}", "{]", "[1", "[1,", "[1,]", "[,1]", "[,]", "[1,,2]", "[1 2]", "[1:2]", "[1;2]", '{"a"}', '{"a":}', '{"a":1,}',
                  '{,"a":1}', '{"a":1 "b":2}', '{"a" 1}', '{"a"::1}', '{"a":1,,"b":2}', '{"a":1:2}', "{1:2}", "{null:1}", "{a:1}", "{'a':1}", '{"a":1', '{"a":',
                  '{"a"', '{"', "[[]", "[]]", "{}}", "[][]", "{}{}", "1 2", "1,2", "[1]x", "null null", '"a""b"', "[true false]", ":", ",", '{"a":1]', "[1}",
                  "[[1]", '{[]:1}', '{{}:1}', "()", "<a>", '["a":1]'],
    "literals": ["nul", "nulll", "Null", "NULL", "tru", "True", "TRUE", "fals", "False", "truefalse", "undefined", "None", "n", "t", "[nul]", "nan", "inf",
                 "infinity", "+Infinity", "Inf", "-inf", "-NaN", "\u0442rue"],
    "numbers": ["+1", "01", "-01", "00", "-", "--1", "-+1", "1.", ".1", "-.1", "1.e1", "1e", "1e+", "1E-", "1e1.5", "1.1.1", "0x10", "0b1", "0o7", "1_000", "1,000",
                "1 000", "- 1", "1a", "1e1e1", "e1", "1.5.", "1e++1", "-00", "-a", "0.e1", "\uff11", "1\u0660", "1L", "1f", "$1", "0x", "[01]", "[-]", "[1.]",
                "[.5]", "1/2"],
    "strings": ['"', '"a', "'a'", '"\\"', '"\\x41"', '"\\a"', '"\\0"', '"\\u"', '"\\u1"', '"\\u12"', '"\\u123"', '"\\u123g"', '"\\uG123"', '"\\U0041"', '"\\u 041"',
                '"\\u+041"', '"\\', '"\\u00', '"a\nb"', '"a\tb"', '"a\rb"', '"\x00"', '"\x01"', '"\x1f"', '"\\\n"', '"a" b', 'a"b"', '"\\e"', '"\\v"', "\"\\'\"",
                '{"a\nb":1}', '{"a":1,"b', "`a`", '"""a"""', "\u201ca\u201d", '"\\u{41}"', '"\\N"'],
    "space": ["\u00a01", "1\u00a0", "\u20281", "\x0b1", "\x0c1", "1\x00", "\x001", "\ufeff1", "\ufeff{}", "[\u20031]", "//c\n1", "/*c*/1", "1//c", "#c\n1", "[1/*c*/]",
              "1;", "\\n1", "1\x1a"],
    "bytes": [b'"\xff"', b'"\x80"', b'"\xc0\xaf"', b'"\xc1\x81"', b'"\xe0\x80\xaf"', b'"\xed\xa0\x80"', b'"\xed\xbf\xbf"', b'"\xf0\x80\x80\xaf"', b'"\xf4\x90\x80\x80"',
              b'"\xf8\x88\x80\x80\x80"', b'"\xe2\x82"', b'"\xc3"', b'"\xc3\x28"', b"\xff\xfe1\x00", b"\xef\xbb1", b'{"\xff":1}', b'"a\xe9"', b'"\xf0\x9f\x98"',
              b"\xc3\xa9", b"[1]\xff", b'"\xfe"'],
}
# RFC 8259 leaves these to the implementation; the difference that each shows.
EITHER = {
    "duplicate keys": ['{"a":1,"a":1}', '{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"":1,"":2}', '[{"x":{"b":0,"c":1,"b":2}}]', '{"\\ud83d\\ude00":1,"\U0001f600":2}'],
    "NaN and Infinity": ["NaN", "Infinity", "-Infinity", "[NaN]", '{"a":-Infinity}'],
    "deeper than 32": ["[" * 33 + "]" * 33, '{"a":' * 33 + "1" + "}" * 33, "[" * 500 + "]" * 500],
    "more than 1 MiB": ['"' + "x" * BYTES + '"', " " * BYTES + "1"],
    "more than 10,000 values": ["[" + "0," * 9999 + "0]"],
    "integers beyond 2^53-1": ["9007199254740992", "-9007199254740992", "18446744073709551616", "1" + "0" * 60, "[9223372036854775808]"],
    "doubles out of range": ["1e309", "-1e309", "1e99999", "[1.8e308]", "123123e100000"],
    "numbers of more than 128 characters": ["0." + "1" * 127, "1e" + "0" * 130 + "1", "0." + "0" * 300 + "1"],
    "lone surrogates": ['"\\ud800"', '"\\udc00"', '"\\ud800a"', '"\\ud800\\n"', '"\\udc00\\ud800"', '"\\ud800\\ud800\\udc00"', '{"\\udfff":1}', '"\\uDBFF\\u0041"'],
    "NUL in a key": ['{"\\u0000":1}', '{"a\\u0000b":1,"a":2}'],
}


def raw(text):
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def named(prefix, groups):
    return [("%s_%s_%d" % (prefix, group.replace(" ", "_"), i), group, raw(text)) for group, texts in groups.items() for i, text in enumerate(texts)]


CASES = named("y", YES) + named("n", NO) + named("i", EITHER)


@pytest.fixture(scope="module")
def verdicts():
    return dict(zip([name for name, _, _ in CASES], scan([text for _, _, text in CASES])))


def test_there_are_enough():
    assert len(CASES) >= 200 and len({name for name, _, _ in CASES}) == len(CASES)
    assert set(EITHER) == set(INTENDED)


@pytest.mark.parametrize("name,group,text", CASES, ids=[name for name, _, _ in CASES])
def test_case(verdicts, name, group, text):
    accepted, result = verdicts[name]
    python = Python(text)
    if name.startswith("y_"):
        assert python.accepted and not python.seen
        assert accepted, result
        assert same(result, python.value)
    elif name.startswith("n_"):
        assert not python.accepted, "Python accepts it: add it to INTENDED"
        assert not accepted and result.startswith("not valid JSON: "), result
    else:
        assert python.accepted and group in python.seen
        assert not accepted and INTENDED[group] in result, result


def mutate(rnd, text, others):
    text = bytearray(text)
    for _ in range(rnd.randrange(1, 4)):
        at = rnd.randrange(len(text) + 1)
        what = rnd.randrange(6)
        if what == 0:
            text[at:at + 1] = b""
        elif what == 1:
            text[at:at] = rnd.choice([b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"\\ud83d", b"0", b"-", b".", b"e", b"1", b" ", b"\n", b"\x00",
                                      b"\x80", b"\xc3\xa9", b"null", b"true", b"NaN", b'"a":', b"99999999"])
        elif what == 2 and text:
            at = min(at, len(text) - 1)
            text[at] ^= 1 << rnd.randrange(8)
        elif what == 3:
            end = at + rnd.randrange(12)
            text[at:at] = text[at:end]
        elif what == 4:
            other = rnd.choice(others)
            begin = rnd.randrange(len(other) + 1)
            text[at:at] = other[begin:begin + rnd.randrange(16)]
        else:
            del text[at:at + rnd.randrange(8)]
    return bytes(text)


@pytest.mark.parametrize("seed", range(4))
def test_mutations(seed):
    """Half start with valid text, so that many are still valid."""
    rnd = random.Random(seed)
    small = [text for _, _, text in CASES if len(text) < 200]
    valid = [text for name, _, text in CASES if name.startswith("y_") and len(text) < 200]
    texts = [mutate(rnd, rnd.choice(valid if i % 2 else small), small) for i in range(3000)]
    accepted = 0
    for text, (ours, result) in zip(texts, scan(texts)):
        python = Python(text)
        wanted = python.accepted and not python.seen
        assert ours == wanted, (text, result, python.seen)
        if ours:
            accepted += 1
            assert same(result, python.value), (text, result)
    assert accepted > 300, "too many mutations are invalid"
