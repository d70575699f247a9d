#!/usr/bin/env python3
"""Verifies a recording of Lucid from its files alone: a second implementation, written from the documentation of the
format (rust/lucid-recording), for whoever trusts neither the device nor Lucid's own program. README.md says how.

Exit status: 0 all is proved; 1 something is wrong or missing; 2 wrong usage; 6 the recording cannot be read."""
import argparse
import hmac
import json
import os
import re
import stat
import struct
import sys

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

MIB = 1 << 20
MAX_CHUNKS, MAX_PARTS, MAX_GAPS, MAX_TEXT, MAX_FINISHED, MAX_LISTED = 1 << 16, 1 << 10, 1 << 12, 256, 64, 256
MAX_OPENING, MAX_HEAD, MAX_MANIFEST, MAX_KEYS, MAX_PLAIN = 1 << 18, 1 << 15, 24 * MIB, 6 * MIB, 16 * MIB
HEADER, FRAME, TIME, TAG = 84, 6, 8, 16
MAX_CHUNK = HEADER + 2 * FRAME + MAX_PLAIN + TIME + 2 * TAG
LAST, END, ZSTD, KEY = 1, 2, 4, 8  # flags of a record


class Wrong(Exception):
    """What is wrong, for people, and in which record of a chunk."""
    def __init__(self, problem, record=None):
        super().__init__(problem)
        self.record = record


def demand(good, problem, record=None):
    if not good:
        raise Wrong(problem, record)


# Canonical JSON (RFC 8785, integers only), the forms of the statements, signatures.

def integer(bits):
    return lambda v: type(v) is int and 0 <= v < min(1 << bits, 1 << 53)


def letters(pattern):
    return lambda v: type(v) is str and re.fullmatch(pattern, v) is not None


def one_of(*values):
    return lambda v: type(v) in (str, int) and v in values


def optional(form):
    return lambda v: v is None or fits(v, form)


def many(form, most):
    return lambda v: type(v) is list and len(v) <= most and all(fits(item, form) for item in v)


def text(v):
    return type(v) is str and len(v.encode()) <= MAX_TEXT


def fits(v, form):
    if type(form) is dict:
        return type(v) is dict and v.keys() == form.keys() and all(fits(v[name], form[name]) for name in form)
    return form(v)


def statement(kind, **members):
    return dict(members, kind=one_of("lucid-recording-" + kind), session=SESSION, version=one_of(1))


U32, U64, HASH = integer(32), integer(64), letters("[0-9a-f]{64}")
SESSION = letters("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
CHUNK = dict(acknowledged=U64, first_us=U64, hash=HASH, index=U32, key=lambda v: type(v) is bool, last_us=U64,
             part=U32, size=U64)
OPEN = dict(first_us=U64, hash=HASH, index=U32, last_us=U64, length=U64)
GAP = dict(from_us=U64, reason=text, to_us=U64)
PARTICIPANT, STREAM = dict(key=HASH, name=text, role=text), dict(
    compression=one_of("none", "zstd"), id=one_of(*range(1, 16)), name=text)
PART = dict(ended=one_of("closed", "lost"), key_commitment=HASH, part=U32)
WRAPPED = dict(encapsulated=HASH, part=U32, sealed=letters("[0-9a-f]{96}"))
OPENING = statement("opening", codec=text, consent=optional(HASH), device=HASH, policy=HASH, recorder=text, wall_ms=U64,
                    participants=many(PARTICIPANT, MAX_LISTED), streams=many(STREAM, 15))
HEAD = statement("head", audit=optional(HASH), closed=U32, finished=many(CHUNK, MAX_FINISHED), gap=optional(GAP),
                 key_commitment=HASH, mono_us=U64, part=U32, previous=HASH, root=HASH, seq=U64, open=optional(OPEN),
                 wall_ms=U64)
MANIFEST = statement("manifest", audit=optional(dict(count=U64, hash=HASH)), chunks=many(CHUNK, MAX_CHUNKS),
                     ended=one_of("finished", "recovered"), gaps=many(GAP, MAX_GAPS), heads=dict(count=U64, last=HASH),
                     mono_us=U64, opening=HASH, recorder=text, root=HASH, wall_ms=U64, parts=many(PART, MAX_PARTS))
KEYS = statement("keys", recipients=many(dict(key=HASH, parts=many(WRAPPED, MAX_PARTS),
                                              role=one_of("owner", "observer", "recovery")), 16))


def canonical(value):
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def parse(raw, form):
    """The value of canonical JSON of that form."""
    try:
        value = json.loads(raw.decode())
        demand(canonical(value) == raw and fits(value, form), "it is not what version 1 of the format allows")
    except (ValueError, RecursionError):
        raise Wrong("it is no JSON in canonical form") from None
    return value


def signed(raw, form, device):
    """The body of a statement; only an opening may say itself whose signature it bears."""
    whole = parse(raw, dict(body=form, signature=letters("[0-9a-f]{128}")))
    body = whole["body"]
    device = device or body.get("device")
    try:
        if device:
            message = b"lucid recording v1 " + body["kind"].encode() + b"\0" + canonical(body)
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(device))
            key.verify(bytes.fromhex(whole["signature"]), message)
    except (InvalidSignature, ValueError):
        raise Wrong(f"it is not signed by the device {device}") from None
    return body


# HPKE (RFC 9180, base mode, one shot) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305; HChaCha20.

def hpke_open(secret, encapsulated, sealed, info, associated):
    def extract(suite, salt, label, data):
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + data, "sha256")

    def expand(suite, key, label, data, length):  # never more than one block
        return hmac.digest(key, struct.pack(">H", length) + b"HPKE-v1" + suite + label + data + b"\1", "sha256")[:length]

    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x03"
    shared = secret.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    pair = encapsulated + secret.public_key().public_bytes_raw()
    shared = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", pair, 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    base = extract(suite, shared, b"secret", b"")
    cipher = ChaCha20Poly1305(expand(suite, base, b"key", context, 32))
    return cipher.decrypt(expand(suite, base, b"base_nonce", context, 12), sealed, associated)


def hchacha20(key, salt):
    """draft-irtf-cfrg-xchacha-03, section 2.2."""
    s = list(struct.unpack("<16I", b"expand 32-byte k" + key + salt))
    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                           (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                s[x] = s[x] + s[y] & 0xffffffff
                s[z] = ((s[z] ^ s[x]) << bits & 0xffffffff) | ((s[z] ^ s[x]) >> 32 - bits)
    return struct.pack("<8I", *s[:4], *s[12:])


class Tree:
    """RFC 6962 with BLAKE3: the roots of the full subtrees with their sizes, the largest first."""
    def __init__(self, leaves=()):
        self.full = []
        for leaf in leaves:
            self.push(leaf)

    def push(self, leaf):
        node, size = bytes.fromhex(leaf), 1
        while self.full and self.full[-1][0] == size:
            node, size = blake3(b"\1" + self.full.pop()[1] + node).digest(), 2 * size
        self.full.append((size, node))

    def root(self):
        node = self.full[-1][1] if self.full else blake3().digest()
        for _, left in reversed(self.full[:-1]):
            node = blake3(b"\1" + left + node).digest()
        return node.hex()


def read(path, most):
    """A file's bytes, unless there are more than any good one has."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            demand(stat.S_ISREG(os.fstat(file.fileno()).st_mode), "it is no file")
            data = file.read(most + 1)
    except OSError as error:
        raise Wrong(f"it cannot be read: {error.strerror}") from None
    demand(len(data) <= most, f"it has more than {most} bytes")
    return data


class ChunkFile:
    """A chunk's bytes, which are held to one statement after the other."""
    def __init__(self, path):
        self.data, self.hash, self.hashed = read(path, MAX_CHUNK), blake3(b"\0"), 0
        self.marks = {}  # what heads said of its first bytes

    def hold(self, length, leaf):
        demand(length <= len(self.data), f"it has {len(self.data)} bytes, and {length} were signed")
        self.hash.update(memoryview(self.data)[self.hashed:length])
        self.hashed = length
        demand(self.hash.hexdigest() == leaf, f"its first {length} bytes are not those that were signed")

    def header(self, session, index, part=None, commitment=None):
        demand(len(self.data) >= HEADER, "it is shorter than its header")
        good = (b"LUCIDREC", 1, HEADER, bytes.fromhex(session.replace("-", "")), index, part, commitment)
        magic, version, size, whose, of, at, _, key = struct.unpack_from("<8sHH16sII16s32s", self.data)
        demand((magic, version, size, whose, at) == good[:5], "its header is of another format, session or place")
        demand(part is None or (of, key.hex()) == good[5:], "its header is of another part or key")

    def records(self):
        """Number, stream, flags, begin and end of the sealed bytes of each record."""
        at, number, closed = HEADER, 0, False
        while at < len(self.data):
            demand(not closed, "something comes after its closing record", number)
            demand(at + FRAME <= len(self.data), "it ends within a record", number)
            size, stream, flags = struct.unpack_from("<IBB", self.data, at)
            form = size == TIME + TAG and flags | END == LAST | END if stream == 0 else not flags & ~(ZSTD | KEY)
            demand(TIME + TAG <= size <= MAX_PLAIN + TAG and stream <= 15 and form, "there is no record", number)
            begin, at, closed = at + FRAME, at + FRAME + size, stream == 0
            demand(at <= len(self.data), "it ends within a record", number)
            yield number, stream, flags, begin, at
            number += 1


def check_chunk(chunk, count, parts):
    """What can be said of an entry alone."""
    demand(chunk["index"] == count < MAX_CHUNKS and chunk["part"] in parts, "its chunks are in no order")
    demand(chunk["first_us"] <= chunk["last_us"] and HEADER < chunk["size"] <= MAX_CHUNK, "a chunk's entry cannot be")


class Chain:
    """What the heads so far say."""
    def __init__(self):
        self.head = self.previous = self.session = None
        self.chunks, self.gaps, self.keys, self.tree = [], [], [], Tree()

    def take(self, head, line):
        last, part, now, gap = self.head, head["part"], head["open"], head["gap"]
        was = last and last["open"]
        demand(head["session"] == self.session, "it is of another session")
        demand(self.previous in (None, head["previous"]), "it does not follow what is before it")
        demand(head["seq"] == (last["seq"] + 1 if last else 0), "its number is not the next one")
        demand(not last or head["mono_us"] >= last["mono_us"], "its time goes back")
        demand(not gap or gap["from_us"] <= gap["to_us"] <= head["mono_us"], "its gap cannot be")
        if part == len(self.keys):
            demand(part < MAX_PARTS and not now and (gap or not last), "a part begins that cannot")
            self.keys.append(head["key_commitment"])
        demand(part == len(self.keys) - 1 and head["key_commitment"] == self.keys[-1], "its part or key is another")
        for chunk in head["finished"]:
            check_chunk(chunk, len(self.chunks), (max(part - 1, 0), part))
            demand(not was or chunk["index"] > was["index"] or chunk["acknowledged"] >= was["length"]
                   and chunk["first_us"] <= was["first_us"] and chunk["last_us"] >= was["last_us"],
                   "a chunk is less than was confirmed of it")
            self.chunks.append(chunk)
            self.tree.push(chunk["hash"])
        demand(head["closed"] == len(self.chunks), "the number of its chunks is wrong")
        demand(self.tree.root() == head["root"], "its root is not that of the chunks")
        demand(not now or now["index"] == len(self.chunks) and HEADER < now["length"] <= MAX_CHUNK
               and now["first_us"] <= now["last_us"] <= head["mono_us"], "what it says of the open chunk cannot be")
        demand(not was or was["index"] < len(self.chunks) or now and now["length"] >= was["length"]
               and now["first_us"] == was["first_us"] and now["last_us"] >= was["last_us"],
               "the open chunk is less than was confirmed of it")
        self.gaps += [gap] if gap else []
        self.head, self.previous = head, blake3(line).hexdigest()


class Verifier:
    def __init__(self, directory, device, secret):
        self.directory, self.device, self.secret = directory, device, secret
        self.chain, self.opening, self.manifest, self.keys = Chain(), None, None, None
        self.file, self.index, self.done, self.unclosed, self.time = None, None, set(), {}, (0, 0)
        self.report = dict(
            verdict=None, findings=[], notes=[], session=None, device=None, device_given=device is not None, ended=None,
            heads=0, parts=0, chunks=dict(proved=0, wrong=0, unproved=0), bytes=0, records=0,
            opened=dict(records=0, torn=0) if secret else None, gaps=[], began_ms=None, ended_ms=None, length_us=0)

    def path(self, name):
        return os.path.join(self.directory, name)

    def wrong(self, name, error, line=None):
        self.report["findings"].append(dict(file=name, line=line, record=error.record, problem=str(error)))

    def read_opening(self):
        raw = read(self.path("opening.json"), MAX_OPENING)
        opening = signed(raw, OPENING, self.device)
        ids = [stream["id"] for stream in opening["streams"]]
        demand(self.device in (None, opening["device"]), "it is by another device")
        demand(ids == sorted(set(ids)) and len(ids) + len(opening["participants"]) <= MAX_LISTED, "its lists cannot be")
        self.opening, self.device, self.chain.session = opening, opening["device"], opening["session"]
        self.chain.previous = blake3(raw).hexdigest()

    def read_manifest(self):
        manifest = signed(read(self.path("manifest.json"), MAX_MANIFEST), MANIFEST, self.device)
        parts, chain = manifest["parts"], self.chain
        demand(chain.session in (None, manifest["session"]), "it is of another session")
        demand(chain.previous in (None, manifest["opening"]), "it is of another opening")
        demand(parts and [part["part"] for part in parts] == list(range(len(parts))), "its parts are in no order")
        before = 0
        for count, chunk in enumerate(manifest["chunks"]):
            check_chunk(chunk, count, range(before, len(parts)))
            before = chunk["part"]
        demand(Tree(chunk["hash"] for chunk in manifest["chunks"]).root() == manifest["root"], "its root is wrong")
        demand((manifest["ended"] == "finished") == (parts[-1]["ended"] == "closed"), "it ends other than its last part")
        self.manifest, chain.session, chain.previous = manifest, manifest["session"], manifest["opening"]

    def read_keys(self):
        keys = parse(read(self.path("keys.json"), MAX_KEYS), KEYS)
        demand(self.chain.session in (None, keys["session"]), "it is of another session")
        for recipient in keys["recipients"]:
            parts = [wrapped["part"] for wrapped in recipient["parts"]]
            demand(parts == sorted(set(parts)), "its parts are in no order")
        self.keys = keys

    def session_key(self, part, commitment):
        public = self.secret.public_key().public_bytes_raw().hex()
        mine = [r for r in self.keys["recipients"] if r["key"] == public]
        demand(mine, "this key is none of those that the recording was sealed to")
        wrapped = [w for w in mine[0]["parts"] if w["part"] == part]
        demand(wrapped, f"it has no key of part {part} for this recipient")
        info = b"lucid recording v1 session key" + bytes.fromhex(self.chain.session.replace("-", ""))
        try:
            key = hpke_open(self.secret, bytes.fromhex(wrapped[0]["encapsulated"]), bytes.fromhex(wrapped[0]["sealed"]),
                            info + struct.pack("<I", part), bytes.fromhex(commitment))
        except (InvalidTag, ValueError):
            raise Wrong(f"the key of part {part} does not open") from None
        found = blake3(key, derive_key_context="lucid recording v1 key commitment").hexdigest()
        demand(found == commitment, f"the key of part {part} is not the one that the recording was sealed with")
        return key

    def attempt(self, name, work):
        try:
            work()
        except Wrong as error:
            self.wrong(name, error)

    def walk_heads(self):
        number = 0
        try:
            lines = self.lines()
            for number, line in enumerate(lines, 1):
                head = signed(line, HEAD, self.device)
                self.chain.session = self.chain.session or head["session"]
                self.chain.take(head, line)
                for chunk in head["finished"]:
                    self.hold(chunk["index"], lambda file: self.finished(file, chunk))
                if head["open"]:
                    self.hold(head["open"]["index"], lambda file: self.confirmed(file, head["open"]))
            demand(self.chain.head, "it has no line")
        except Wrong as error:
            self.wrong("heads.jsonl", error, number + 1)
            return
        if self.manifest:
            heads = self.manifest["heads"]
            if heads["count"] != number or heads["last"] != self.chain.previous:
                return self.wrong("heads.jsonl", Wrong("its end is not the one that the manifest names"))
            same = [p["key_commitment"] for p in self.manifest["parts"]] == self.chain.keys
            same = same and self.manifest["chunks"] == self.chain.chunks and self.manifest["gaps"] == self.chain.gaps
            same = same and all(self.manifest[name] == self.chain.head[name] for name in ("mono_us", "wall_ms", "root"))
            if not same or self.chain.head["open"]:
                self.wrong("manifest.json", Wrong("it does not say what the heads say"))
        elif self.chain.head["open"]:
            self.hold(self.chain.head["open"]["index"], self.unfinished)

    def lines(self):
        try:
            with open(self.path("heads.jsonl"), "rb") as file:
                while line := file.readline(MAX_HEAD + 1):
                    if line[-1:] != b"\n":
                        demand(len(line) <= MAX_HEAD and not self.has_manifest, "it ends within a line")
                        self.report["notes"].append("the last line of heads.jsonl was not written to its end")
                        return
                    yield line[:-1]
        except OSError as error:
            raise Wrong(f"it cannot be read: {error.strerror}") from None

    def hold(self, index, check):
        """Holds a chunk to a statement, and says what is wrong with it once."""
        if index in self.done:
            return
        try:
            if index != self.index:
                self.index, self.file = index, None
                self.file = ChunkFile(self.path(f"chunk-{index:06}"))
            check(self.file)
        except Wrong as error:
            self.wrong(f"chunk-{index:06}", error)
            self.report["chunks"]["wrong"] += 1
            self.done.add(index)

    def confirmed(self, file, mark):
        file.hold(mark["length"], mark["hash"])
        file.marks[mark["length"]] = mark

    def finished(self, file, entry):
        demand(len(file.data) == entry["size"], f"it has {len(file.data)} bytes, and {entry['size']} were signed")
        file.hold(entry["size"], entry["hash"])
        self.look_into(file, entry)

    def unfinished(self, file):
        mark = self.chain.head["open"]
        entry = dict(mark, acknowledged=mark["length"], size=len(file.data), part=self.chain.head["part"], key=None)
        file.data = file.data[:mark["length"]]
        self.look_into(file, entry)

    def look_into(self, file, entry):
        """The records of a chunk whose bytes are those that were signed."""
        part, report = entry["part"], self.report
        keys = self.chain.keys if part < len(self.chain.keys) else [p["key_commitment"] for p in self.manifest["parts"]]
        file.header(self.chain.session, entry["index"], part, keys[part])
        streams = {s["id"]: s["compression"] for s in self.opening["streams"]} if self.opening else None
        key = self.key_of(part, keys[part])
        if key:
            place = bytes.fromhex(self.chain.session.replace("-", "")) + struct.pack("<II", part, entry["index"])
            chunk_key = blake3(key + place, derive_key_context="lucid recording v1 chunk key").digest()
            cipher = ChaCha20Poly1305(hchacha20(chunk_key, file.data[36:52]))
            header = blake3(file.data[:HEADER]).digest()
        count, closed, times, marks, sure = 0, 0, [], dict(file.marks), entry["acknowledged"]
        for number, stream, flags, begin, end in file.records():
            demand(not stream or streams is None or stream in streams, "its stream is none of the opening's", number)
            demand(number or entry["key"] in (None, bool(flags & KEY)), "it is a key, or none, other than signed", 0)
            marks.pop(end, None)
            count, closed = number + 1, flags & (LAST | END)
            if not key:
                continue
            bound = header + struct.pack("<QBBI", number, stream, flags, end - begin)
            try:
                plain = cipher.decrypt(struct.pack("<IQ", 0, number), file.data[begin:end], bound)
            except InvalidTag:
                demand(end > sure, "it does not open", number)
                report["opened"]["torn"] += 1
                break
            time, = struct.unpack_from("<Q", plain)
            demand((part, time) >= self.time, "its time goes back", number)
            demand(not times or time >= times[-1], "its time goes back", number)
            mark = file.marks.get(end)
            times.append(time)
            demand(not mark or (times[0], time) == (mark["first_us"], mark["last_us"]), "its time is not as signed", number)
            self.time = part, time
            report["opened"]["records"] += 1
        demand(not marks, "a head confirmed half a record")
        demand(count, "it has no record")
        self.unclosed[entry["index"]] = (part, closed)
        report["records"] += count
        report["bytes"] += len(file.data)
        report["chunks"]["proved"] += 1
        self.done.add(entry["index"])

    def key_of(self, part, commitment):
        if not self.secret or not self.keys:
            return None
        if part not in self.known:
            self.known[part] = None
            def work():
                self.known[part] = self.session_key(part, commitment)
            self.attempt("keys.json", work)
        return self.known[part]

    def run(self):
        self.known = {}
        names = sorted(os.listdir(self.directory))
        self.has_manifest = "manifest.json" in names
        self.attempt("opening.json", self.read_opening)
        if self.has_manifest:
            self.attempt("manifest.json", self.read_manifest)
        self.attempt("keys.json", self.read_keys)
        self.walk_heads()
        if self.manifest:
            for chunk in self.manifest["chunks"]:
                self.hold(chunk["index"], lambda file: self.finished(file, chunk))
        for name in names:
            if re.fullmatch("chunk-[0-9]{6,}", name) and int(name[6:]) not in self.done:
                self.unknown(name)
        report = self.report
        report["verdict"] = "damaged" if report["findings"] else "sound" if self.manifest else "unfinished"
        report["findings"].sort(key=lambda f: f["file"])
        return report

    def unknown(self, name):
        try:
            demand(not self.manifest, "no statement speaks of it")
            if self.chain.session:
                ChunkFile(self.path(name)).header(self.chain.session, int(name[6:]))
            self.report["chunks"]["unproved"] += 1
        except Wrong as error:
            self.wrong(name, error)
            self.report["chunks"]["wrong"] += 1


def main():
    parser = argparse.ArgumentParser(description="Verifies a recording of Lucid from its files alone.")
    parser.add_argument("directory")
    parser.add_argument("--device", help="the device's public key, 64 hexadecimal digits, known from elsewhere")
    parser.add_argument("--key", help="the file with a recipient's secret key: opens every record as well")
    parser.add_argument("--json", action="store_true", help="prints the report of lucidctl recording verify --json")
    arguments = parser.parse_args()
    secret = None
    if arguments.key:
        secret = X25519PrivateKey.from_private_bytes(bytes.fromhex(open(arguments.key).read().strip()))
    report = Verifier(arguments.directory, arguments.device, secret).run()
    print(json.dumps(report, ensure_ascii=False))


if __name__ == "__main__":
    main()
