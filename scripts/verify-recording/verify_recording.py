#!/usr/bin/env python3
"""Verifies recordings of Lucid from their files alone: a second implementation, written from the documentation of the
format (rust/lucid-recording), for whoever trusts neither the device nor Lucid's own program. README.md says how.
Exit status: 0 all is proved; 1 something is wrong or missing; 2 wrong usage; 6 a recording or the key cannot be read.
"""
import argparse, hmac, json, os, re, stat, struct, sys  # noqa: E401

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

MAX_CHUNKS, MAX_PARTS, MAX_GAPS, MAX_TEXT, MAX_FINISHED, MAX_LISTED = 1 << 16, 1 << 10, 1 << 12, 256, 64, 256
MAX_OPENING, MAX_HEAD, MAX_MANIFEST, MAX_KEYS, MAX_PLAIN = 1 << 18, 1 << 15, 24 << 20, 6 << 20, 16 << 20
HEADER, FRAME, TIME, TAG, ZSTD_MAGIC = 84, 6, 8, 16, b"\x28\xb5\x2f\xfd"
MAX_CHUNK = HEADER + 2 * FRAME + MAX_PLAIN + TIME + 2 * TAG
LAST, END, ZSTD, KEY = 1, 2, 4, 8  # flags of a record

class Wrong(Exception):
    """What is wrong, for people, and in which line of heads.jsonl or record of a chunk."""

def demand(good, problem, place=None):
    if not good:
        raise Wrong(problem, place)

# The forms of the statements. A form is an object's members, [the form of each item, how many at most], the values that
# are possible (a tuple), the most bits of an integer, what matches a string, or a function.

def fits(v, form):
    if type(form) is dict:
        return type(v) is dict and v.keys() == form.keys() and all(fits(v[name], form[name]) for name in form)
    if type(form) is list:
        return type(v) is list and len(v) <= form[1] and all(fits(item, form[0]) for item in v)
    if type(form) is tuple:
        return any(type(v) is type(one) and v == one for one in form)
    if type(form) is int:
        return type(v) is int and 0 <= v < 1 << form
    return type(v) is str and bool(form.fullmatch(v)) if type(form) is re.Pattern else form(v)

def text(v):
    return type(v) is str and len(v.encode()) <= MAX_TEXT

def optional(form):
    return lambda v: v is None or fits(v, form)

def statement(kind, **members):
    return dict(members, kind=("lucid-recording-" + kind,), session=SESSION, version=(1,))

U32, U64, HASH, PLACES = 32, 53, re.compile("[0-9a-f]{64}"), ("line", "record")
SESSION = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
CHUNK = dict(acknowledged=U64, first_us=U64, hash=HASH, index=U32, key=(True, False), last_us=U64, part=U32, size=U64)
OPEN = dict(first_us=U64, hash=HASH, index=U32, last_us=U64, length=U64)
GAP = dict(from_us=U64, reason=text, to_us=U64)
STREAM = dict(compression=("none", "zstd"), id=tuple(range(1, 16)), name=text)
PART = dict(ended=("closed", "lost"), key_commitment=HASH, part=U32)
WRAPPED = dict(encapsulated=HASH, part=U32, sealed=re.compile("[0-9a-f]{96}"))
RECIPIENT = dict(key=HASH, parts=[WRAPPED, MAX_PARTS], role=("owner", "observer", "recovery"))
OPENING = statement("opening", codec=text, consent=optional(HASH), device=HASH, policy=HASH, recorder=text, wall_ms=U64,
                    participants=[dict(key=HASH, name=text, role=text), MAX_LISTED], streams=[STREAM, 15])
HEAD = statement("head", audit=optional(HASH), closed=U32, finished=[CHUNK, MAX_FINISHED], gap=optional(GAP), root=HASH,
                 key_commitment=HASH, mono_us=U64, part=U32, previous=HASH, seq=U64, open=optional(OPEN), wall_ms=U64)
MANIFEST = statement("manifest", audit=optional(dict(count=U64, hash=HASH)), chunks=[CHUNK, MAX_CHUNKS], opening=HASH,
                     ended=("finished", "recovered"), gaps=[GAP, MAX_GAPS], heads=dict(count=U64, last=HASH), root=HASH,
                     mono_us=U64, recorder=text, wall_ms=U64, parts=[PART, MAX_PARTS])
KEYS = statement("keys", recipients=[RECIPIENT, 16])

def canonical(value):
    """RFC 8785; there are integers alone, and names in ASCII."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

def parse(raw, form):
    try:
        value = json.loads(raw.decode())
        demand(canonical(value) == raw and fits(value, form), "it is not what version 1 of the format allows")
    except (ValueError, RecursionError):
        raise Wrong("it is no JSON in canonical form", None) from None
    return value

def signed(raw, form, device):
    """The body of a statement. Where no device is known, an opening says itself whose signature it bears."""
    whole = parse(raw, dict(body=form, signature=re.compile("[0-9a-f]{128}")))
    body, signature = whole["body"], bytes.fromhex(whole["signature"])
    device = device or body.get("device")
    try:
        if device:
            message = b"lucid recording v1 " + body["kind"].encode() + b"\0" + canonical(body)
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(device)).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Wrong(f"it is not signed by the device {device}", None) from None
    return body

def hpke_open(secret, encapsulated, sealed, info, associated):
    """RFC 9180, base mode, one shot: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305."""
    def extract(suite, salt, label, data):
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + data, "sha256")

    def expand(suite, key, label, data, size):  # never more than one block
        return hmac.digest(key, struct.pack(">H", size) + b"HPKE-v1" + suite + label + data + b"\1", "sha256")[:size]

    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x03"
    shared = extract(kem, b"", b"eae_prk", secret.exchange(X25519PublicKey.from_public_bytes(encapsulated)))
    shared = expand(kem, shared, b"shared_secret", encapsulated + secret.public_key().public_bytes_raw(), 32)
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

def grow(tree, leaf):
    """RFC 6962 with BLAKE3: a tree is the roots of its full subtrees with their sizes, the largest first."""
    node, size = bytes.fromhex(leaf), 1
    while tree and tree[-1][0] == size:
        node, size = blake3(b"\1" + tree.pop()[1] + node).digest(), 2 * size
    tree.append((size, node))

def root(tree):
    node = tree[-1][1] if tree else blake3().digest()
    for _, left in reversed(tree[:-1]):
        node = blake3(b"\1" + left + node).digest()
    return node.hex()

def opened(path):
    """A file; one that cannot be read (OSError) is not wrong, and ends the program."""
    try:
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except FileNotFoundError:
        raise Wrong("it is missing", None) from None
    demand(stat.S_ISREG(os.fstat(file.fileno()).st_mode), "it is no file")
    return file

def read(path, most):
    with opened(path) as file:
        data = file.read(most + 1)
    demand(len(data) <= most, f"it has more than {most} bytes")
    return data

class ChunkFile:
    """A chunk's bytes, which are held to one statement after the other."""
    def __init__(self, path):
        self.data, self.hash, self.hashed, self.marks = read(path, MAX_CHUNK), blake3(b"\0"), 0, {}

    def hold(self, length, leaf):
        demand(length <= len(self.data), f"it has {len(self.data)} bytes, and {length} were signed")
        self.hash.update(memoryview(self.data)[self.hashed:length])
        self.hashed = length
        demand(self.hash.hexdigest() == leaf, f"its first {length} bytes are not those that were signed")

    def header(self, session, index):
        """Holds it to its place; gives its part and the key commitment."""
        demand(len(self.data) >= HEADER, "it is shorter than its header")
        magic, version, size, whose, part, at, _, key = struct.unpack_from("<8sHH16sII16s32s", self.data)
        demand((magic, version, size) == (b"LUCIDREC", 1, HEADER), "it is no chunk of version 1")
        demand((whose, at) == (id_bytes(session), index), "it is of another session or place")
        return part, key.hex()

    def records(self):
        """Number, stream, flags, begin and end of the sealed bytes of each record."""
        at, number, closed = HEADER, 0, False
        while at < len(self.data):
            demand(not closed and at + FRAME <= len(self.data), "it does not end where its records do")
            size, stream, flags = struct.unpack_from("<IBB", self.data, at)
            form = size == TIME + TAG and flags | END == LAST | END if stream == 0 else not flags & ~(ZSTD | KEY)
            demand(TIME + TAG <= size <= MAX_PLAIN + TAG and stream <= 15 and form, f"record {number} is none")
            begin, at, closed = at + FRAME, at + FRAME + size, stream == 0
            demand(at <= len(self.data), "it does not end where its records do")
            yield number, stream, flags, begin, at
            number += 1

def id_bytes(session):
    return bytes.fromhex(session.replace("-", ""))

def check_chunk(chunk, number, earliest, latest):
    demand(chunk["index"] == number < MAX_CHUNKS and earliest <= chunk["part"] <= latest, "its chunks are in no order")
    demand(chunk["first_us"] <= chunk["last_us"] and chunk["size"] <= MAX_CHUNK, "a chunk's entry cannot be")

class Chain:
    """What the heads so far say."""
    def __init__(self):
        self.head, self.previous, self.session, self.count = {}, None, None, 0
        self.chunks, self.gaps, self.keys, self.tree = [], [], [], []

    def take(self, head, line):
        part, now, gap, finished, was = head["part"], head["open"], head["gap"], head["finished"], self.head.get("open")
        tree, number, new = list(self.tree), len(self.chunks), part == len(self.keys)
        demand(head["session"] == self.session, "it is of another session")
        demand(self.previous in (None, head["previous"]), "it does not follow what is before it")
        demand(head["seq"] == self.count, "its number is not the next one")
        demand(head["mono_us"] >= self.head.get("mono_us", 0), "its time goes back")
        demand(not gap or gap["from_us"] <= gap["to_us"] <= head["mono_us"], "its gap cannot be")
        if new:
            demand(part < MAX_PARTS and not now and (gap or part == 0), "a part begins that cannot")
        else:
            demand(part == len(self.keys) - 1 and head["key_commitment"] == self.keys[-1], "its part or key is another")
        for chunk in finished:
            check_chunk(chunk, number, self.chunks[-1]["part"] if self.chunks else 0, part)
            demand(chunk["last_us"] <= head["mono_us"], "a chunk ends after it")
            if was and number == was["index"]:
                grown(was, chunk, "acknowledged")
            grow(tree, chunk["hash"])
            number += 1
        demand(head["closed"] == number and root(tree) == head["root"], "its root is not that of the chunks")
        if now:
            order = HEADER < now["length"] <= MAX_CHUNK and now["first_us"] <= now["last_us"] <= head["mono_us"]
            demand(now["index"] == number and order, "what it says of the open chunk cannot be")
        if was and not finished:
            grown(was, now or {}, "length")
        self.head, self.previous, self.tree, self.count = head, blake3(line).hexdigest(), tree, self.count + 1
        self.chunks, self.gaps = self.chunks + finished, self.gaps + ([gap] if gap else [])
        self.keys += [head["key_commitment"]] if new else []

def grown(was, now, length):
    demand(now and now[length] >= was["length"] and now["first_us"] == was["first_us"] and
           now["last_us"] >= was["last_us"], "a chunk is less than was confirmed of it")

class Verifier:
    def __init__(self, directory, device, secret):
        self.directory, self.device, self.given, self.secret = directory, device, bool(device), secret
        self.chain, self.opening, self.manifest, self.recipients = Chain(), {}, {}, None
        self.file, self.index, self.done, self.keys, self.time, self.end = None, None, set(), {}, (0, 0), None
        self.findings, self.notes, self.counts = [], [], dict(proved=0, wrong=0, unproved=0)
        self.bytes, self.records, self.opened, self.torn = 0, 0, 0, 0
        self.names = sorted(os.listdir(directory))
        self.ended = "manifest.json" in self.names

    def path(self, name):
        return os.path.join(self.directory, name)

    def attempt(self, name, work, *arguments):
        try:
            return work(*arguments)
        except Wrong as error:
            problem, place = error.args
            line, record = (place, None) if name == "heads.jsonl" else (None, place)
            self.findings.append(dict(file=name, line=line, record=record, problem=problem))

    def run(self):
        self.attempt("opening.json", self.read_opening)
        if self.ended:
            self.attempt("manifest.json", self.read_manifest)
        self.attempt("keys.json", self.read_keys)
        if self.attempt("heads.jsonl", self.walk_heads) and self.manifest:
            self.attempt("heads.jsonl", self.compare)
        self.rest()
        manifest, head = self.manifest, self.chain.head
        return dict(
            verdict="damaged" if self.findings else "sound" if self.ended else "unfinished", findings=self.findings,
            notes=self.notes, session=self.chain.session, device=self.device, device_given=self.given, chunks=self.counts,
            ended=manifest.get("ended"), heads=self.chain.count, parts=len(manifest.get("parts", self.chain.keys)),
            bytes=self.bytes, records=self.records, gaps=manifest.get("gaps", self.chain.gaps),
            opened=dict(records=self.opened, torn=self.torn) if self.secret else None,
            began_ms=self.opening.get("wall_ms"), ended_ms=manifest.get("wall_ms", head.get("wall_ms")),
            length_us=manifest.get("mono_us", head.get("mono_us", 0)))

    def read_opening(self):
        raw = read(self.path("opening.json"), MAX_OPENING)
        opening = signed(raw, OPENING, self.device)
        ids = [stream["id"] for stream in opening["streams"]]
        demand(self.device in (None, opening["device"]), "it is by another device")
        demand(ids and ids == sorted(set(ids)), "its streams are in no order")
        demand(len(ids) + len(opening["participants"]) <= MAX_LISTED, "it lists too many")
        self.opening, self.device = opening, opening["device"]
        self.chain.session, self.chain.previous = opening["session"], blake3(raw).hexdigest()

    def read_manifest(self):
        manifest = signed(read(self.path("manifest.json"), MAX_MANIFEST), MANIFEST, self.device)
        parts, chain, tree, part = manifest["parts"], self.chain, [], 0
        demand(chain.session in (None, manifest["session"]), "it is of another session")
        demand(chain.previous in (None, manifest["opening"]), "it is of another opening")
        demand(parts and [part["part"] for part in parts] == list(range(len(parts))), "its parts are in no order")
        for number, chunk in enumerate(manifest["chunks"]):
            check_chunk(chunk, number, part, len(parts) - 1)
            grow(tree, chunk["hash"])
            part = chunk["part"]
        demand(root(tree) == manifest["root"], "its root is not that of the chunks")
        ends = ["lost"] * (len(parts) - 1) + ["closed" if manifest["ended"] == "finished" else "lost"]
        demand([part["ended"] for part in parts] == ends, "its parts did not end as it did")
        self.manifest, chain.session, chain.previous = manifest, manifest["session"], manifest["opening"]

    def read_keys(self):
        keys = parse(read(self.path("keys.json"), MAX_KEYS), KEYS)
        recipients = keys["recipients"]
        demand(self.chain.session in (None, keys["session"]), "it is of another session")
        demand(recipients and len({r["key"] for r in recipients}) == len(recipients), "it names nobody, or one twice")
        for recipient in recipients:
            parts = [wrapped["part"] for wrapped in recipient["parts"]]
            demand(parts == sorted(set(parts)), "its parts are in no order")
        self.recipients = recipients

    def session_key(self, part, commitment):
        public = self.secret.public_key().public_bytes_raw().hex()
        mine = [w for r in self.recipients if r["key"] == public for w in r["parts"] if w["part"] == part]
        demand(mine, f"it has no key of part {part} for the recipient {public}")
        info = b"lucid recording v1 session key" + id_bytes(self.chain.session) + struct.pack("<I", part)
        encapsulated, sealed = bytes.fromhex(mine[0]["encapsulated"]), bytes.fromhex(mine[0]["sealed"])
        try:
            key = hpke_open(self.secret, encapsulated, sealed, info, bytes.fromhex(commitment))
        except (InvalidTag, ValueError):
            raise Wrong(f"the key of part {part} does not open", None) from None
        found = blake3(key, derive_key_context="lucid recording v1 key commitment").hexdigest()
        demand(found == commitment, f"the key of part {part} is not the one of the chunks")
        return key

    def walk_heads(self):
        chain = self.chain
        with opened(self.path("heads.jsonl")) as file:
            while line := file.readline(MAX_HEAD + 1):
                if line[-1:] != b"\n" and chain.count and not self.ended and len(line) <= MAX_HEAD:
                    self.notes.append("the last line of heads.jsonl was not written to its end")
                    break
                try:
                    demand(line[-1:] == b"\n", "it has no end")
                    head = signed(line[:-1], HEAD, self.device)
                    chain.session = chain.session or head["session"]
                    chain.take(head, line[:-1])
                except Wrong as error:
                    raise Wrong(error.args[0], chain.count + 1) from None
                for entry in head["finished"]:
                    self.hold(entry["index"], self.finished, entry, head["gap"] and entry == head["finished"][-1])
                if head["open"]:
                    self.hold(head["open"]["index"], self.confirmed, head["open"])
        demand(chain.count, "it is empty")
        if not self.manifest and chain.head["open"]:
            self.hold(chain.head["open"]["index"], self.unfinished)
        return True

    def compare(self):
        """Holds the manifest to all heads."""
        chain, manifest, heads, audit = self.chain, self.manifest, self.manifest["heads"], self.manifest["audit"]
        demand((heads["count"], heads["last"]) == (chain.count, chain.previous), "the manifest names another end of it")
        same = [part["key_commitment"] for part in manifest["parts"]] == chain.keys and not chain.head["open"]
        same = same and (manifest["chunks"], manifest["gaps"]) == (chain.chunks, chain.gaps)
        same = same and all(manifest[name] == chain.head[name] for name in ("mono_us", "wall_ms", "root"))
        same = same and (not audit or audit["hash"] == chain.head["audit"])
        self.attempt("manifest.json", demand, same, "it does not say what the heads say")

    def hold(self, index, check, *arguments):
        """Holds a chunk to a statement; what is wrong with it is said once."""
        def attempt():
            if index != self.index:
                self.index, self.file = index, None
                self.file = ChunkFile(self.path(f"chunk-{index:06}"))
            check(*arguments)
            return True
        if index not in self.done and not self.attempt(f"chunk-{index:06}", attempt):
            self.counts["wrong"] += 1
            self.done.add(index)

    def confirmed(self, mark):
        self.file.hold(mark["length"], mark["hash"])
        self.file.marks[mark["length"]] = mark

    def finished(self, entry, may_be_open):
        size, lost = len(self.file.data), entry["acknowledged"] - entry["size"]
        demand(size == entry["size"], f"it has {size} bytes, and {entry['size']} were signed")
        self.file.hold(size, entry["hash"])
        demand(lost <= 0, f"{lost} bytes that were confirmed were lost before recovery, which says so itself")
        self.look_into(entry, may_be_open)

    def unfinished(self):
        mark = self.chain.head["open"]
        if len(self.file.data) > mark["length"]:
            self.notes.append(f"what comes after byte {mark['length']} of the last chunk is confirmed by no head")
            self.file.data = self.file.data[:mark["length"]]
        self.look_into(dict(mark, acknowledged=mark["length"], part=self.chain.head["part"], key=None), True)

    def look_into(self, entry, may_be_open):
        """The records of a chunk whose bytes are those that were signed."""
        file, part, index, count, closed, times, torn = self.file, entry["part"], entry["index"], 0, 0, [], False
        keys = self.chain.keys if part < len(self.chain.keys) else [p["key_commitment"] for p in self.manifest["parts"]]
        demand(file.header(self.chain.session, index) == (part, keys[part]), "its header is of another part or key")
        if self.secret and self.recipients and part not in self.keys:
            self.keys[part] = self.attempt("keys.json", self.session_key, part, keys[part])
        if key := self.keys.get(part):
            place = id_bytes(self.chain.session) + struct.pack("<II", part, index)
            sealing = blake3(key + place, derive_key_context="lucid recording v1 chunk key").digest()
            cipher, header = ChaCha20Poly1305(hchacha20(sealing, file.data[36:52])), blake3(file.data[:HEADER]).digest()
        for number, stream, flags, begin, end in file.records():
            count, closed, mark = count + 1, flags & (LAST | END), file.marks.pop(end, None)
            demand(number or entry["key"] in (None, bool(flags & KEY)), "it is a key or none, other than signed", 0)
            if not key or torn:
                continue
            bound = header + struct.pack("<QBBI", number, stream, flags, end - begin)
            try:
                plain = cipher.decrypt(struct.pack("<IQ", 0, number), file.data[begin:end], bound)
            except InvalidTag:
                demand(end > entry["acknowledged"], "it does not open", number)
                torn = True
                self.notes.append(f"the end of chunk-{index:06} was torn when its recorder died; no head confirmed it")
                continue
            times.append(struct.unpack_from("<Q", plain)[0])
            demand((part, times[-1]) >= self.time, "its time goes back", number)
            demand(not flags & ZSTD or plain[TIME:TIME + 4] == ZSTD_MAGIC, "it is no frame of zstd", number)
            same = not mark or (times[0], times[-1]) == (mark["first_us"], mark["last_us"])
            demand(same, "its time is not the one that was signed", number)
            self.time = part, times[-1]
        demand(not file.marks, "a head confirmed half a record")
        demand(closed or may_be_open, "it does not end with a closing record")
        demand(self.end is None, "it comes after the chunk that ends the recording")
        exact = key and entry["acknowledged"] == len(file.data)
        demand(not exact or (times[0], times[-1]) == (entry["first_us"], entry["last_us"]), "the times were signed otherwise")
        self.end = index if closed & END else None
        self.records, self.bytes = self.records + count, self.bytes + len(file.data)
        self.opened, self.torn = self.opened + len(times), self.torn + torn
        self.counts["proved"] += 1
        self.done.add(index)

    def rest(self):
        """Chunks that the heads did not come to, files that nothing speaks of, keys that nobody has."""
        chunks = self.manifest.get("chunks", [])
        for entry, after in zip(chunks, chunks[1:] + [None]):
            lost = self.manifest["parts"][entry["part"]]["ended"] == "lost"
            self.hold(entry["index"], self.finished, entry, lost and (not after or after["part"] > entry["part"]))
        for name in self.names:
            index = int(name[6:]) if re.fullmatch("chunk-([0-9]{6}|[1-9][0-9]{6,9})", name) else -1
            if name.startswith("chunk-") and index not in self.done:
                self.counts["unproved"] += index >= 0 and not self.manifest
                self.attempt(name, self.unknown, name, index)
        ends = self.findings or self.manifest.get("ended") != "finished" or self.end == len(chunks) - 1
        self.attempt("manifest.json", demand, ends, "no chunk says that the recording ends")
        held = {wrapped["part"] for recipient in self.recipients or () for wrapped in recipient["parts"]}
        if self.recipients and "keys.json" not in [finding["file"] for finding in self.findings]:
            self.attempt("keys.json", demand, held >= set(range(len(self.chain.keys))), "nobody has the key of a part")

    def unknown(self, name, index):
        demand(index >= 0, "it is named like a chunk, and is none")
        demand(not self.manifest, "it is not part of the recording")
        if self.chain.session:
            ChunkFile(self.path(name)).header(self.chain.session, index)

def show(report, directory):
    for finding in report["findings"]:
        place = "".join(f", {name} {finding[name]}" for name in PLACES if finding[name] is not None)
        print(f"WRONG   {finding['file']}{place}: {finding['problem']}")
    print("".join(f"missing from {gap['from_us'] / 1e6} s to {gap['to_us'] / 1e6} s\n" for gap in report["gaps"]), end="")
    print(f"{report['verdict']}: {directory}: {report['chunks']}, {report['heads']} heads, {report['records']} records")
    print(f"signed by {report['device']}" + ("" if report["device_given"] else "; compare it with the key that you know"))

def main():
    parser = argparse.ArgumentParser(description="Verifies recordings of Lucid from their files alone.")
    parser.add_argument("directory", nargs="+")
    parser.add_argument("--device", help="the device's public key, 64 hexadecimal digits, known from elsewhere")
    parser.add_argument("--key", help="file with a recipient's secret key: opens every record as well")
    parser.add_argument("--json", action="store_true", help="one report a line, as of `lucidctl recording verify --json`")
    arguments, worst = parser.parse_args(), 0
    if arguments.device and not HASH.fullmatch(arguments.device):
        parser.error("--device takes 64 hexadecimal digits")
    try:
        key = arguments.key and bytes.fromhex(read(arguments.key, 65).decode())
        secret = key and X25519PrivateKey.from_private_bytes(key)
        for directory in arguments.directory:
            verifier = Verifier(directory, arguments.device, secret)
            if not any(re.match("opening.json$|heads.jsonl$|manifest.json$|chunk-[0-9]", n) for n in verifier.names):
                raise ValueError(f"{directory} holds no recording")
            report = verifier.run()
            print(json.dumps(report, ensure_ascii=False)) if arguments.json else show(report, directory)
            worst = max(worst, report["verdict"] != "sound")
    except (OSError, ValueError, Wrong) as error:
        print(f"verify_recording: {error}", file=sys.stderr)
        return 6
    return worst

if __name__ == "__main__":
    sys.exit(main())
