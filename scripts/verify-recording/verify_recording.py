#!/usr/bin/env python3
"""Verifies recordings of Lucid from their files alone: a second implementation, written from the documentation of the
format (rust/lucid-recording), for whoever trusts neither the device nor Lucid's own program. README.md says how.
Exit status: 0 all is proved; 1 something is wrong or missing; 2 wrong usage; 6 a recording or the key cannot be read.
"""
# ruff: noqa: E302, E305, E401, E731
import argparse, hmac, json, os, re, stat, struct, sys

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

MAX_CHUNKS, MAX_PARTS, MAX_GAPS, MAX_TEXT, MAX_FINISHED, MAX_LISTED = 1 << 16, 1 << 10, 1 << 12, 256, 64, 256
MAX_OPENING, MAX_HEAD, MAX_MANIFEST, MAX_KEYS, MAX_PLAIN = 1 << 18, 1 << 15, 24 << 20, 6 << 20, 16 << 20
HEADER, FRAME, TIME, TAG, MAGIC, ZSTD_MAGIC = 84, 6, 8, 16, b"LUCIDREC\1\0\x54\0", b"\x28\xb5\x2f\xfd"
MAX_CHUNK = HEADER + 2 * FRAME + MAX_PLAIN + TIME + 2 * TAG
LAST, END, ZSTD, KEY = 1, 2, 4, 8  # flags of a record

class Wrong(Exception):
    """What is wrong, for people, and in which line of heads.jsonl or record of a chunk."""

def demand(good, problem, place=None):
    if not good:
        raise Wrong(problem, place)

def fits(v, form):
    """A form is an object's members, [the form of an item, how many], a tuple of the values that can be, the bits of an
    integer, what matches a string, or a function."""
    if type(form) is dict:
        return type(v) is dict and v.keys() == form.keys() and all(fits(v[name], form[name]) for name in form)
    if type(form) is list:
        return type(v) is list and len(v) <= form[1] and all(fits(item, form[0]) for item in v)
    if type(form) is tuple:
        return any(type(v) is type(one) and v == one for one in form)
    if type(form) is int:
        return type(v) is int and 0 <= v < 1 << form
    return type(v) is str and bool(form.fullmatch(v)) if type(form) is re.Pattern else form(v)

text = lambda v: type(v) is str and len(v.encode()) <= MAX_TEXT
optional = lambda form: lambda v: v is None or fits(v, form)
statement = lambda kind, **more: dict(more, kind=("lucid-recording-" + kind,), session=SESSION, version=(1,))
id_bytes = lambda session: bytes.fromhex(session.replace("-", ""))
# RFC 8785, for integers alone and names in ASCII.
canonical = lambda v: json.dumps(v, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
U32, U64, HASH, SUMS = 32, 53, re.compile("[0-9a-f]{64}"), ("bytes", "records", "opened", "torn")
SESSION = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
CHUNK = dict(acknowledged=U64, first_us=U64, hash=HASH, index=U32, key=(True, False), last_us=U64, part=U32, size=U64)
OPEN = dict(first_us=U64, hash=HASH, index=U32, last_us=U64, length=U64)
GAP = dict(from_us=U64, reason=text, to_us=U64)
STREAM = dict(compression=("none", "zstd"), id=tuple(range(1, 16)), name=text)
WRAPPED = dict(encapsulated=HASH, part=U32, sealed=re.compile("[0-9a-f]{96}"))
KEYS = statement("keys", recipients=[
    dict(key=HASH, parts=[WRAPPED, MAX_PARTS], role=("owner", "observer", "recovery")), 16])
OPENING = statement("opening", codec=text, consent=optional(HASH), device=HASH, policy=HASH, recorder=text, wall_ms=U64,
                    participants=[dict(key=HASH, name=text, role=text), MAX_LISTED], streams=[STREAM, 15])
HEAD = statement("head", audit=optional(HASH), closed=U32, finished=[CHUNK, MAX_FINISHED], gap=optional(GAP), root=HASH,
                 key_commitment=HASH, mono_us=U64, part=U32, previous=HASH, seq=U64, open=optional(OPEN), wall_ms=U64)
MANIFEST = statement("manifest", audit=optional(dict(count=U64, hash=HASH)), chunks=[CHUNK, MAX_CHUNKS], opening=HASH,
                     ended=("finished", "recovered"), gaps=[GAP, MAX_GAPS], heads=dict(count=U64, last=HASH), root=HASH,
                     parts=[dict(ended=("closed", "lost"), key_commitment=HASH, part=U32), MAX_PARTS], wall_ms=U64,
                     mono_us=U64, recorder=text)

def parse(raw, form):
    try:
        value = json.loads(raw.decode())
        demand(canonical(value) == raw and fits(value, form), "it is not what version 1 of the format allows")
    except (ValueError, RecursionError):
        raise Wrong("it is no JSON in canonical form", None) from None
    return value

def signed(raw, form, device):
    """A statement's body. Where no device is known, an opening says itself whose signature it bears."""
    whole = parse(raw, dict(body=form, signature=re.compile("[0-9a-f]{128}")))
    body, signature = whole["body"], bytes.fromhex(whole["signature"])
    device = device or body.get("device")
    try:
        if device:
            message = b"lucid recording v1 " + body["kind"].encode() + b"\0" + canonical(body)
            ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(device)).verify(signature, message)
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
    shared = extract(kem, b"", b"eae_prk", secret.exchange(x25519.X25519PublicKey.from_public_bytes(encapsulated)))
    shared = expand(kem, shared, b"shared_secret", encapsulated + secret.public_key().public_bytes_raw(), 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    base = extract(suite, shared, b"secret", b"")
    cipher = ChaCha20Poly1305(expand(suite, base, b"key", context, 32))
    return cipher.decrypt(expand(suite, base, b"base_nonce", context, 12), sealed, associated)

def hchacha20(key, salt):
    """draft-irtf-cfrg-xchacha-03, section 2.2."""
    s = list(struct.unpack("<16I", b"expand 32-byte k" + key + salt))
    for _ in range(10):
        for i in range(8):  # four columns, four diagonals
            a, b, c, d = (i % 4, *(4 * row + (i + i // 4 * row) % 4 for row in (1, 2, 3)))
            for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                s[x] = s[x] + s[y] & 0xffffffff
                s[z] = ((s[z] ^ s[x]) << bits & 0xffffffff) | ((s[z] ^ s[x]) >> 32 - bits)
    return struct.pack("<8I", *s[:4], *s[12:])

def root(chunks, nodes, begin, end):
    """RFC 6962 with BLAKE3, over some of the chunks; `nodes` keeps what was worked out."""
    if end - begin < 2:
        return chunks[begin]["hash"] if end > begin else blake3().hexdigest()
    if (begin, end) not in nodes:
        split = begin + (1 << (end - begin - 1).bit_length() - 1)
        pair = bytes.fromhex(root(chunks, nodes, begin, split) + root(chunks, nodes, split, end))
        nodes[begin, end] = blake3(b"\1" + pair).hexdigest()
    return nodes[begin, end]

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

def header(data, session, index):
    """Holds a chunk's header to its place; gives its part and the key commitment."""
    demand(len(data) >= HEADER and data[:12] == MAGIC, "it does not begin like a chunk of version 1")
    whose, part, at, _, key = struct.unpack_from("<12x16sII16s32s", data)
    demand((whose, at) == (id_bytes(session), index), "it is of another session or place")
    return part, key.hex()

def records(data):
    """Number, stream, flags, begin and end of the sealed bytes of each record in a chunk."""
    at, number, closed = HEADER, 0, False
    while at < len(data):
        demand(not closed and at + FRAME <= len(data), "it does not end where its records do")
        size, stream, flags = struct.unpack_from("<IBB", data, at)
        form = size == TIME + TAG and flags | END == LAST | END if stream == 0 else not flags & ~(ZSTD | KEY)
        demand(TIME + TAG <= size <= MAX_PLAIN + TAG and stream <= 15 and form, f"record {number} is none")
        begin, at, closed = at + FRAME, at + FRAME + size, stream == 0
        demand(at <= len(data), "it does not end where its records do")
        yield number, stream, flags, begin, at
        number += 1

def check_entry(chunk, number, part, last_part, mono_us):
    demand(chunk["index"] == number < MAX_CHUNKS and part <= chunk["part"] <= last_part and chunk["size"] <= MAX_CHUNK
           and chunk["first_us"] <= chunk["last_us"] <= mono_us, "the entry of a chunk cannot be")

class Verifier:
    def __init__(self, directory, device, secret):
        self.path = lambda name: os.path.join(directory, name)
        self.device, self.given, self.secret, self.names = device, bool(device), secret, sorted(os.listdir(directory))
        self.opening, self.manifest, self.recipients, self.ended = {}, {}, None, "manifest.json" in self.names
        self.head, self.previous, self.session, self.count, self.nodes = {}, None, None, 0, {}
        self.chunks, self.gaps, self.commitments = [], [], []
        self.index, self.data, self.done, self.keys, self.time, self.end = None, b"", set(), {}, (0, 0), None
        self.findings, self.counts, self.sums = [], dict(proved=0, wrong=0, unproved=0), dict.fromkeys(SUMS, 0)

    def attempt(self, name, work, *arguments):
        try:
            return work(*arguments) or True
        except Wrong as error:
            problem, place = error.args
            line, record = (place, None) if name == "heads.jsonl" else (None, place)
            self.findings.append(dict(file=name, line=line, record=record, problem=problem))

    def run(self):
        self.attempt("opening.json", self.read_opening)
        self.ended and self.attempt("manifest.json", self.read_manifest)
        self.attempt("keys.json", self.read_keys)
        self.attempt("heads.jsonl", self.walk_heads) and self.manifest and self.attempt("heads.jsonl", self.compare)
        self.rest()
        manifest, head, sums = self.manifest, self.head, self.sums
        return dict(
            verdict="damaged" if self.findings else "sound" if self.ended else "unfinished", findings=self.findings,
            notes=[], session=self.session, device=self.device, device_given=self.given, ended=manifest.get("ended"),
            heads=self.count, parts=len(manifest.get("parts", self.commitments)), chunks=self.counts,
            bytes=sums["bytes"], records=sums["records"], gaps=manifest.get("gaps", self.gaps),
            opened=dict(records=sums["opened"], torn=sums["torn"]) if self.secret else None,
            began_ms=self.opening.get("wall_ms"), ended_ms=manifest.get("wall_ms", head.get("wall_ms")),
            length_us=manifest.get("mono_us", head.get("mono_us", 0)))

    def read_opening(self):
        raw = read(self.path("opening.json"), MAX_OPENING)
        opening = signed(raw, OPENING, self.device)
        ids = [stream["id"] for stream in opening["streams"]]
        demand(self.device in (None, opening["device"]), "it is by another device")
        demand(ids and ids == sorted(set(ids)) and len(ids) + len(opening["participants"]) <= MAX_LISTED, "a list of it")
        self.opening, self.device, self.session = opening, opening["device"], opening["session"]
        self.previous, known = blake3(raw).hexdigest(), opening["consent"]
        known and self.attempt("consent.json", lambda: demand(known == blake3(
            read(self.path("consent.json"), MAX_OPENING)).hexdigest(), "it is not the one that the opening names"))

    def read_manifest(self):
        manifest = signed(read(self.path("manifest.json"), MAX_MANIFEST), MANIFEST, self.device)
        parts, chunks, part = manifest["parts"], manifest["chunks"], 0
        other = self.previous not in (None, manifest["opening"]) or self.session not in (None, manifest["session"])
        demand(not other, "it is of another opening")
        for number, chunk in enumerate(chunks):
            check_entry(chunk, number, part, len(parts) - 1, manifest["mono_us"])
            part = chunk["part"]
        demand(root(chunks, {}, 0, len(chunks)) == manifest["root"], "its root is wrong")
        ends = ["lost"] * (len(parts) - 1) + ["closed" if manifest["ended"] == "finished" else "lost"]
        demand(parts and [(p["part"], p["ended"]) for p in parts] == list(enumerate(ends)), "its parts cannot be")
        self.manifest, self.session, self.previous = manifest, manifest["session"], manifest["opening"]

    def read_keys(self):
        keys = parse(read(self.path("keys.json"), MAX_KEYS), KEYS)
        names = [recipient["key"] for recipient in keys["recipients"]]
        parts = [[wrapped["part"] for wrapped in recipient["parts"]] for recipient in keys["recipients"]]
        demand(self.session in (None, keys["session"]), "it is of another session")
        demand(names and len(set(names)) == len(names) and parts == [sorted(set(p)) for p in parts], "it repeats")
        self.recipients = keys["recipients"]

    def session_key(self, part, commitment):
        public = self.secret.public_key().public_bytes_raw().hex()
        mine = [w for r in self.recipients if r["key"] == public for w in r["parts"] if w["part"] == part]
        demand(mine, f"it has no key of part {part} for the recipient {public}")
        info = b"lucid recording v1 session key" + id_bytes(self.session) + struct.pack("<I", part)
        try:
            key = hpke_open(self.secret, bytes.fromhex(mine[0]["encapsulated"]), bytes.fromhex(mine[0]["sealed"]), info,
                            bytes.fromhex(commitment))
        except (InvalidTag, ValueError):
            raise Wrong(f"the key of part {part} does not open", None) from None
        found = blake3(key, derive_key_context="lucid recording v1 key commitment").hexdigest()
        demand(found == commitment, f"the key of part {part} is not the one of the chunks")
        return key

    def walk_heads(self):
        with opened(self.path("heads.jsonl")) as file:
            while line := file.readline(MAX_HEAD + 1):
                if line[-1:] != b"\n" and self.count and not self.ended and len(line) <= MAX_HEAD:
                    break  # the power went while it was written
                try:
                    demand(line[-1:] == b"\n", "it has no end")
                    self.session = self.session or signed(line[:-1], HEAD, None)["session"]  # whoever signed it
                    self.take(signed(line[:-1], HEAD, self.device), line[:-1])
                except Wrong as error:
                    raise Wrong(error.args[0], self.count + 1) from None
                for entry in self.head["finished"]:
                    self.hold(entry, entry["size"], True, self.head["gap"] and entry is self.head["finished"][-1])
                if mark := self.head["open"]:
                    self.hold(mark, mark["length"], False)
        demand(self.count, "it is empty")
        if not self.manifest and mark:
            self.data = self.data[:mark["length"]]
            mark = dict(mark, acknowledged=mark["length"], part=self.head["part"], key=None)
            self.hold(mark, mark["length"], True, True)

    def take(self, head, line):
        part, now, gap, finished, was = head["part"], head["open"], head["gap"], head["finished"], self.head.get("open")
        new, chunks = part == len(self.commitments), self.chunks + finished if finished else self.chunks
        demand(self.previous in (None, head["previous"]), "it does not follow what is before it")
        demand((head["session"], head["seq"]) == (self.session, self.count), "its session or number is another")
        demand(head["mono_us"] >= self.head.get("mono_us", 0), "its time goes back")
        demand(not gap or gap["from_us"] <= gap["to_us"] <= head["mono_us"], "its gap cannot be")
        begins, goes_on = part < MAX_PARTS and not now and (gap or part == 0), part == len(self.commitments) - 1
        demand(begins if new else goes_on and head["key_commitment"] == self.commitments[-1], "its part cannot be")
        for number, chunk in enumerate(finished, len(self.chunks)):
            check_entry(chunk, number, self.chunks[-1]["part"] if self.chunks else 0, part, head["mono_us"])
        then = dict(finished[0], length=finished[0]["acknowledged"]) if finished else now
        demand(not was or then and then["length"] >= was["length"] and then["first_us"] == was["first_us"] and
               then["last_us"] >= was["last_us"], "a chunk is less than was confirmed of it")
        demand(not now or now["index"] == len(chunks) and HEADER < now["length"] <= MAX_CHUNK and
               now["first_us"] <= now["last_us"] <= head["mono_us"], "what it says of the open chunk cannot be")
        tree = len(chunks), root(chunks, self.nodes, 0, len(chunks))
        demand(tree == (head["closed"], head["root"]), "its root is not that of its chunks")
        self.head, self.previous, self.count, self.chunks = head, blake3(line).hexdigest(), self.count + 1, chunks
        self.gaps, self.commitments = self.gaps + [gap] * bool(gap), self.commitments + [head["key_commitment"]] * new

    def compare(self):
        """Holds the manifest to all heads."""
        manifest, head, audit = self.manifest, self.head, self.manifest["audit"] or dict(hash=self.head["audit"])
        heads = dict(count=self.count, last=self.previous)
        demand(manifest["heads"] == heads, "its end is not the one that the manifest names")
        parts = [part["key_commitment"] for part in manifest["parts"]]
        same = (parts, manifest["chunks"], manifest["gaps"]) == (self.commitments, self.chunks, self.gaps)
        same = same and not head["open"] and audit["hash"] == head["audit"] and all(
            manifest[name] == head[name] for name in ("mono_us", "wall_ms", "root"))
        self.attempt("manifest.json", demand, same, "it does not say what the heads say")

    def hold(self, entry, *more):
        """Holds a chunk to what is said of it; what is wrong with it is said once."""
        if entry["index"] not in self.done and not self.attempt(f"chunk-{entry['index']:06}", self.held, entry, *more):
            self.counts["wrong"] += 1
            self.done.add(entry["index"])

    def held(self, entry, length, whole, may_be_open=False):
        if entry["index"] != self.index:
            self.index, self.hash, self.hashed, self.marks = entry["index"], blake3(b"\0"), 0, set()
            self.data = read(self.path(f"chunk-{self.index:06}"), MAX_CHUNK)
        size = len(self.data)
        demand(size == length or not whole and size > length, f"it has {size} bytes, and {length} were signed")
        self.hash.update(memoryview(self.data)[self.hashed:length])
        self.hashed = length
        demand(self.hash.hexdigest() == entry["hash"], f"its first {length} bytes are not those that were signed")
        self.marks.add(length)
        if whole:
            demand(entry["acknowledged"] <= length, "bytes that were confirmed were lost before recovery, as it says")
            self.look_into(entry, may_be_open)

    def look_into(self, entry, may_be_open):
        """The records of a chunk whose bytes are those that were signed."""
        data, part, index, count, closed, times, torn = self.data, entry["part"], entry["index"], 0, 0, [], False
        keys = self.commitments + [p["key_commitment"] for p in self.manifest.get("parts", [])][len(self.commitments):]
        demand(header(data, self.session, index) == (part, keys[part]), "its header is of another part or key")
        if self.secret and self.recipients and part not in self.keys:
            self.keys[part] = self.attempt("keys.json", self.session_key, part, keys[part])
        if key := self.keys.get(part):
            place = id_bytes(self.session) + struct.pack("<II", part, index)
            sealing = blake3(key + place, derive_key_context="lucid recording v1 chunk key").digest()
            cipher, head = ChaCha20Poly1305(hchacha20(sealing, data[36:52])), blake3(data[:HEADER]).digest()
        for number, stream, flags, begin, end in records(data):
            count, closed = count + 1, flags & (LAST | END)
            self.marks.discard(end)
            demand(number or entry["key"] in (None, bool(flags & KEY)), "it is a key or none, other than signed", 0)
            if not key or torn:
                continue
            try:
                bound = head + struct.pack("<QBBI", number, stream, flags, end - begin)
                plain = cipher.decrypt(struct.pack("<IQ", 0, number), data[begin:end], bound)
            except InvalidTag:
                torn = demand(end > entry["acknowledged"], "it does not open", number) or True  # its recorder died
                continue
            times.append(struct.unpack_from("<Q", plain)[0])
            demand((part, times[-1]) >= self.time, "its time goes back", number)
            demand(end > entry["acknowledged"] or times[-1] <= entry["last_us"], "its time is too late", number)
            demand(not flags & ZSTD or plain[TIME:TIME + 4] == ZSTD_MAGIC, "it is no frame of zstd", number)
            self.time = part, times[-1]
        demand(not self.marks, "a head confirmed half a record")
        demand(closed or may_be_open, "it does not end with a closing record")
        demand(self.end is None, "it comes after the chunk that ends the recording")
        signed_times = [entry["first_us"], entry["last_us"]] if key and entry["acknowledged"] == len(data) else []
        demand(not signed_times or times[:1] + times[-1:] == signed_times, "its times were signed otherwise")
        self.end = index if closed & END else None
        for name, more in zip(SUMS, (len(data), count, len(times), torn)):
            self.sums[name] += more
        self.counts["proved"] += 1
        self.done.add(index)

    def rest(self):
        """Chunks that the heads did not come to, files that nothing speaks of, keys that nobody has."""
        chunks = self.manifest.get("chunks", [])
        for entry, after in zip(chunks, chunks[1:] + [None]):
            last = not after or after["part"] > entry["part"]
            self.hold(entry, entry["size"], True, last and self.manifest["parts"][entry["part"]]["ended"] == "lost")
        for name in self.names:
            index = int(name[6:]) if re.fullmatch("chunk-([0-9]{6}|[1-9][0-9]{6,9})", name) else -1
            if name.startswith("chunk-") and index not in self.done and index != self.index:
                self.counts["unproved"] += index >= 0 and not self.manifest
                self.attempt(name, self.unknown, name, index)
        ends = self.manifest.get("ended") != "finished" or self.end == len(chunks) - 1
        self.attempt("manifest.json", demand, self.findings or ends, "no chunk says that the recording ends")
        have = {wrapped["part"] for recipient in self.recipients or () for wrapped in recipient["parts"]}
        if self.recipients and "keys.json" not in [finding["file"] for finding in self.findings]:
            self.attempt("keys.json", demand, have >= set(range(len(self.commitments))), "nobody has the key of a part")

    def unknown(self, name, index):
        demand(index >= 0 and not self.manifest, "it is not part of the recording")
        data = read(self.path(name), MAX_CHUNK)
        self.session and len(data) >= HEADER and data[:12] == MAGIC and header(data, self.session, index)

def main():
    parser = argparse.ArgumentParser(description="Verifies recordings of Lucid from their files alone.")
    parser.add_argument("directory", nargs="+")
    parser.add_argument("--device", type=lambda v: HASH.fullmatch(v)[0], help="its public key in hex, from elsewhere")
    parser.add_argument("--key", help="file with a recipient's secret key: opens every record as well")
    parser.add_argument("--json", action="store_true", help="one report a line, like lucidctl recording verify --json")
    arguments, worst = parser.parse_args(), 0
    try:
        key = arguments.key and bytes.fromhex(open(arguments.key).read(65))
        secret = key and x25519.X25519PrivateKey.from_private_bytes(key)
        for directory in arguments.directory:
            verifier = Verifier(directory, arguments.device, secret)
            if not any(re.match("opening.json$|heads.jsonl$|manifest.json$|chunk-[0-9]", n) for n in verifier.names):
                raise ValueError(f"{directory} holds no recording")
            report = verifier.run()
            hint = "" if arguments.json or arguments.device else "\nThis proves something only if that device is yours."
            print(json.dumps(report, ensure_ascii=False, indent=None if arguments.json else 1) + hint)
            worst = max(worst, report["verdict"] != "sound")
    except (OSError, ValueError, Wrong) as error:
        print(f"verify_recording: {error.args[0] if type(error) is Wrong else error}", file=sys.stderr)
        return 6
    return worst

if __name__ == "__main__":
    sys.exit(main())
