#!/usr/bin/env python3
"""Reads a Holdfast repository without Holdfast.

Written from docs/formats/{catalog,image,pack,keys}.md alone, to show that they suffice. It lists restore points, restores
disks and streams byte for byte, and checks every proof on the way: head lines, record checksums, names of chunks and map
nodes, and seals of encrypted repositories. It writes nothing into the repository.

    holdfast_reader.py REPOSITORY list
    holdfast_reader.py REPOSITORY disk POINT NUMBER FILE
    holdfast_reader.py REPOSITORY stream POINT NAME FILE
    holdfast_reader.py REPOSITORY hashes            every disk and stream, as JSON
    holdfast_reader.py REPOSITORY compare FILE      the same, compared with a stored expected.json

Options before the command: --scan (look at no table), --no-places (trust no place), --key-file FILE,
--passphrase-file FILE. Needs the packages zstandard, blake3 and cryptography (for encrypted repositories only).
"""

import argparse
import json
import os
import re
import struct
import sys

import blake3
import zstandard

CHUNK = 65536
FAN_OUT = 1024
ZERO_ID = bytes(32)
RECORD_MAX = 1 << 20
HEAD = 64
UNIT = 128
PAGE = 4096
PADDING, KIND_CHUNK, KIND_IMAGE, KIND_STREAM = 0, 1, 2, 3
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MANIFEST = re.compile(r"([0-9]{20})\.([0-9a-f]{8})")
MARK = re.compile(r"[0-9]{20}\.(star|lock\.[0-9]{8})")


class Damage(Exception):
    """Something is not what it must be."""


# CRC-32C (Castagnoli), reflected.

def _crc_table():
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


try:
    import google_crc32c

    def crc32c(data):  # noqa: F811 (the quick one, where it is installed)
        return google_crc32c.value(bytes(data))
except ImportError:
    pass

assert crc32c(b"123456789") == 0xE3069283


def keyed(key, data):
    return blake3.blake3(data, key=key).digest()


def derive(context, data):
    return blake3.blake3(data, derive_key_context=context).digest()


def need(condition, what):
    if not condition:
        raise Damage(what)


# Keys of an encrypted repository (docs/formats/keys.md).

def unseal(subkey, salt, associated, ciphertext, tag, what):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    once = keyed(subkey, salt + associated)
    try:
        return AESGCM(once).decrypt(bytes(12), ciphertext + tag, associated)
    except InvalidTag:
        raise Damage(f"{what}: the seal is not that of this key and place") from None


class Keys:
    CONTEXT = "holdfast encrypted repository v1: "

    def __init__(self, master, repository):
        def subkey(use):
            return derive(self.CONTEXT + use, master + repository)

        self.chunks = subkey("names of chunks")
        self.image_nodes = subkey("names of image map nodes")
        self.stream_nodes = subkey("names of stream map nodes")
        self.folders = subkey("folders of workloads")
        self.records = subkey("records")
        self.texts = subkey("text files")
        self.superblock = subkey("superblock")


def parse_key_text(text):
    text = text.strip()
    need(text.startswith("HFKEY1-"), "this is no key")
    digits = bytes.fromhex(re.sub(r"[\s-]", "", text[len("HFKEY1-"):]))
    need(len(digits) == 34, "a key has 68 digits")
    key, check = digits[:32], digits[32:]
    need(derive("holdfast key text v1: check", key)[:2] == check, "the key is mistyped")
    return key


def open_slot(slot, name, repository, secret):
    """The master key, or None if the secret is of the other kind or does not fit."""
    need(slot["repository"] == repository and slot["slot"] == name, f"key slot {name} belongs elsewhere")
    kind, material = secret
    if slot["opens_with"] != kind:
        return None
    opens_with = "key"
    if kind == "passphrase":
        work = slot["argon2id"]
        memory, passes, lanes = work["memory_kibibytes"], work["passes"], work["lanes"]
        need(8 * lanes <= memory <= 1 << 20 and 1 <= passes <= 16 and 1 <= lanes <= 16, f"key slot {name} asks for too much")
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        stretch = Argon2id(salt=bytes.fromhex(slot["salt"]), length=32, iterations=passes, lanes=lanes, memory_cost=memory)
        material = stretch.derive(material)
        opens_with = f"passphrase argon2id {memory} {passes} {lanes}"
    wrapped = bytes.fromhex(slot["wrapped_key"])
    need(len(wrapped) == 48, f"key slot {name} has no key")
    associated = f"key-slot 1\n{repository}\n{name}\n{slot['created_unix_nanoseconds']}\n{opens_with}\n".encode()
    wrapping = derive("holdfast key slot v1: wrapping key", material)
    try:
        return unseal(wrapping, bytes.fromhex(slot["salt"]), associated, wrapped[:32], wrapped[32:], f"key slot {name}")
    except Damage:
        return None


# Text files with a head line (docs/formats/catalog.md).

def read_text(path, kind, known, limit):
    """Version and body, proven by the hash in the head line."""
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    need(len(content) <= limit, f"{path}: too large")
    head, feed, body = content.partition(b"\n")
    words = head.split(b" ")
    need(feed and len(words) == 4 and words[0] == b"holdfast", f"{path}: no head line")
    need(words[1] == kind.encode(), f"{path}: it is a {words[1].decode(errors='replace')}, not a {kind}")
    version = int(words[2])
    need(version <= known, f"{path}: version {version} is too new")
    proof = blake3.blake3(b"holdfast %s %d\n" % (kind.encode(), version) + body).hexdigest()
    need(proof.encode() == words[3], f"{path}: the hash in the head line is wrong")
    return version, body


def parse_json(body, path, fields):
    value = json.loads(body.decode("utf-8"))
    need(isinstance(value, dict) and set(value) == set(fields), f"{path}: fields are missing or strange")
    return value


SUPERBLOCK_FIELDS = ["repository", "created_unix_nanoseconds", "chunk_bytes", "chunk_hash", "keys"]
POINT_FIELDS = ["repository", "point", "kind", "created_unix_nanoseconds", "parent", "images", "streams", "configuration"]
SLOT_FIELDS = ["repository", "slot", "created_unix_nanoseconds", "opens_with", "argon2id", "salt", "wrapped_key"]
# Versions of kinds that have more than one.
VERSIONS = {"point": 2}
STAR_FIELDS = ["repository", "file", "placed_unix_nanoseconds"]
LOCK_FIELDS = STAR_FIELDS + ["mode", "until_unix_nanoseconds", "packs", "inherited"]


class Reader:
    def __init__(self, root, secret=None, scan=False, no_places=False):
        self.root = root
        self.scan = scan
        self.no_places = no_places
        self.keys = None
        self.places = None
        self.zstd = zstandard.ZstdDecompressor()
        self.open_superblock(secret)
        self.packs = dict(self.list_packs())

    # Superblock and keys.

    def open_superblock(self, secret):
        path = os.path.join(self.root, "superblock")
        version, body = read_text(path, "superblock", 2, 1 << 20)
        facts = parse_json(body, path, SUPERBLOCK_FIELDS)
        self.repository = facts["repository"]
        need(facts["chunk_bytes"] == CHUNK, "another grid")
        if version == 1:
            need(secret is None, "a secret was given and the repository is not encrypted")
            need(facts["chunk_hash"] == "blake3" and facts["keys"] == [], "another hash, or keys")
            return
        need(facts["chunk_hash"] == "blake3-keyed" and len(facts["keys"]) == 1, "another hash, or other keys")
        key = facts["keys"][0]
        need(key["cipher"] == "aes-256-gcm", "another cipher")
        need(secret is not None, "the repository is encrypted: give --key-file or --passphrase-file")
        uuid = bytes.fromhex(self.repository.replace("-", ""))
        self.keys = Keys(self.master_key(secret), uuid)
        check = f"{self.repository}\n{facts['created_unix_nanoseconds']}\n{CHUNK}\nblake3-keyed\naes-256-gcm\n"
        need(keyed(self.keys.superblock, check.encode()).hex() == key["check"], "the superblock is not the key's")

    def master_key(self, secret):
        folder = os.path.join(self.root, "keys")
        names = [name for name in sorted(os.listdir(folder)) if NAME.fullmatch(name)]
        for name in names[:32]:
            path = os.path.join(folder, name)
            try:
                _, body = read_text(path, "key-slot", 1, 64 << 10)
                master = open_slot(parse_json(body, path, SLOT_FIELDS), name, self.repository, secret)
            except Damage as damage:
                print(f"passed over: {damage}", file=sys.stderr)
                continue
            if master is not None:
                return master
        raise Damage("the secret opens no key slot")

    def text(self, kind, relative, limit, fields):
        """A text file of points/, which is encrypted if the repository is."""
        path = os.path.join(self.root, relative)
        if self.keys is None:
            version, body = read_text(path, kind, VERSIONS.get(kind, 1), limit)
        else:
            version, sealed = read_text(path, "encrypted-" + kind, VERSIONS.get(kind, 1), limit)
            need(len(sealed) >= 32, f"{path}: cut off")
            associated = f"{kind} {version}\n{relative}".encode()
            body = unseal(self.keys.texts, sealed[:16], associated, sealed[16:-16], sealed[-16:], path)
        value = parse_json(body, path, fields)
        need(value["repository"] == self.repository, f"{path}: of another repository")
        value["version"] = version
        return value

    # The catalog.

    def folder_of(self, workload):
        if self.keys is None:
            return workload
        return keyed(self.keys.folders, workload.encode()).hex()[:32]

    def is_folder(self, name):
        pattern = NAME if self.keys is None else re.compile("[0-9a-f]{32}")
        return pattern.fullmatch(name) is not None

    def points(self):
        """All points, by workload and number."""
        found = []
        for folder in os.listdir(os.path.join(self.root, "points")):
            if not self.is_folder(folder):
                continue
            for name in os.listdir(os.path.join(self.root, "points", folder)):
                if name.startswith(".tmp-") or name.endswith(".expired") or MARK.fullmatch(name):
                    continue
                found.append(self.point(folder, name))
        return sorted(found, key=lambda point: (point["workload"].encode(), point["sequence"]))

    def point(self, folder, name):
        relative = f"points/{folder}/{name}"
        match = MANIFEST.fullmatch(name)
        need(match, f"{relative}: the name is that of no manifest")
        point = self.text("point", relative, 16 << 20, POINT_FIELDS)
        for image in point["images"]:
            need(point["version"] > 1 or "excluded" not in image, f"{relative}: version 1 leaves nothing out")
            image["excluded_ranges"] = self.excluded(image, point["streams"])
        workload, _, number = point["point"].rpartition("@")
        need(self.folder_of(workload) == folder and int(number) == int(match[1]), f"{relative}: it is that of {point['point']}")
        point.update(workload=workload, sequence=int(number), marks=self.marks(folder, match[1]))
        return point

    def marks(self, folder, sequence):
        """Stars and locks of a point. One that cannot be read counts as a lock without an end."""
        marks = {"starred": False, "locks": []}
        for name in sorted(os.listdir(os.path.join(self.root, "points", folder))):
            if not name.startswith(sequence) or not MARK.fullmatch(name):
                continue
            relative = f"points/{folder}/{name}"
            if name.endswith(".star"):
                marks["starred"] = True
                continue
            try:
                lock = self.text("lock", relative, 16 << 20, LOCK_FIELDS)
                need(lock["file"] == relative, f"{relative}: the mark of another place")
                need(lock["mode"] in ("governance", "compliance"), f"{relative}: no such mode")
                marks["locks"].append({"mode": lock["mode"], "until_unix_nanoseconds": lock["until_unix_nanoseconds"]})
            except Damage:
                marks["locks"].append({"mode": "compliance", "until_unix_nanoseconds": None})
        return marks

    # Packs (docs/formats/pack.md).

    def list_packs(self):
        for folder in sorted(os.listdir(os.path.join(self.root, "packs"))):
            if not re.fullmatch("[0-9a-f]{2}", folder):
                continue
            for name in sorted(os.listdir(os.path.join(self.root, "packs", folder))):
                match = re.fullmatch(r"([0-9a-f]{8})\.([0-9a-f]{8})", name)
                if match and match[1][6:] == folder:
                    yield int(match[1], 16), os.path.join(self.root, "packs", folder, name)

    def head(self, data):
        """Kind, codec, stored and raw length, checksum, id and tag; None if no record starts here."""
        if len(data) < HEAD:
            return None
        magic, kind, codec, stored, raw, checksum = struct.unpack_from("<HBBIII", data)
        identity, tag = data[16:48], data[48:64]
        if magic != 0x5248 or kind > 3 or codec > 1 or stored > RECORD_MAX or raw > RECORD_MAX:
            return None
        if tag != bytes(16) and (self.keys is None or kind == PADDING):
            return None
        return kind, codec, stored, raw, checksum, identity, tag

    def scan_pack(self, file, end):
        """Id, offset and kind of every whole record, stepping over what is none."""
        offset = PAGE
        while offset < end:
            file.seek(offset)
            head = self.head(file.read(HEAD))
            step = UNIT
            if head is not None:
                kind, _, stored, _, checksum, identity, _ = head
                file.seek(offset)
                record = file.read(HEAD + stored)
                plain = record[:12] + bytes(4) + record[16:]
                if len(record) == HEAD + stored and offset + len(record) <= end and crc32c(plain) == checksum:
                    step = -(-len(record) // UNIT) * UNIT
                    if kind != PADDING:
                        yield identity, offset, kind
            offset += step

    def read_table(self, file, length):
        """The table's lines and where records end; None for the lines if there is no sound table."""
        if length < 2 * PAGE or length % PAGE:
            return None, length
        file.seek(length - 64)
        trailer = file.read(64)
        magic, version, _, table_offset, count, checksum = struct.unpack_from("<8sIIQII", trailer)
        if magic != b"HFPKEND\n" or crc32c(trailer[:28] + bytes(4) + trailer[32:]) != checksum or count > 1 << 22:
            return None, length
        need(version == 1, "a trailer of another version")
        if table_offset + -(-(48 * count + 64) // PAGE) * PAGE != length:
            return None, length
        file.seek(table_offset)
        lines = file.read(48 * count)
        if blake3.blake3(lines).digest() != trailer[32:]:
            return None, table_offset
        return lines, table_offset

    def pack_records(self, path):
        """Id, offset and kind of all records of a pack."""
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            lines, end = self.read_table(file, length)
            if lines is None or self.scan:
                yield from self.scan_pack(file, min(end, 512 << 20))
                return
            for at in range(0, len(lines), 48):
                slot, kind = struct.unpack_from("<I8xB", lines, at + 32)
                identity = lines[at:at + 32]
                if identity != ZERO_ID:
                    yield identity, (slot >> 10) * UNIT, kind

    def find(self, identity, kind):
        """All places of a record, by the tables of all packs."""
        if self.places is None:
            self.places = {}
            for number, path in self.packs.items():
                for found, offset, found_kind in self.pack_records(path):
                    self.places.setdefault((found, found_kind), []).append((number, offset))
        return self.places.get((identity, kind), [])

    def record(self, identity, pack, slot, kind, prove):
        """The record's raw bytes, from its place or from wherever it is. `prove` says whether they are the right ones."""
        faults = []
        if not self.no_places and pack in self.packs:
            content = self.record_at(pack, (slot >> 10) * UNIT, identity, kind, prove, faults)
            if content is not None:
                return content
        for number, offset in self.find(identity, kind):
            content = self.record_at(number, offset, identity, kind, prove, faults)
            if content is not None:
                return content
        raise Damage(f"record {identity.hex()} is gone or hurt: {'; '.join(faults) or 'no pack has it'}")

    def record_at(self, number, offset, identity, kind, prove, faults):
        where = f"byte {offset} of pack {number}"
        with open(self.packs[number], "rb") as file:
            file.seek(offset)
            data = file.read(HEAD)
            head = self.head(data)
            if head is None or head[0] != kind or head[5] != identity:
                faults.append(f"something else is at {where}")
                return None
            _, codec, stored, raw_length, checksum, _, tag = head
            payload = file.read(stored)
        if len(payload) != stored or (kind != KIND_CHUNK and crc32c(data[:12] + bytes(4) + data[16:] + payload) != checksum):
            faults.append(f"the checksum at {where} is wrong")
            return None
        try:
            if self.keys is not None:
                need(stored >= 16, "no salt")
                associated = data[:12] + identity
                payload = unseal(self.keys.records, payload[:16], associated, payload[16:], tag, where)
            content = self.decode(codec, payload, raw_length)
            need(prove(content), f"the bytes at {where} are not what their name says")
            return content
        except (Damage, zstandard.ZstdError) as fault:
            faults.append(str(fault))
            return None

    def decode(self, codec, payload, raw_length):
        if codec == 0:
            content = payload
        else:
            content = self.zstd.decompress(payload, max_output_size=max(raw_length, 1), allow_extra_data=False)
        need(len(content) == raw_length, "another length than the head says")
        return content

    # Maps (docs/formats/image.md).

    def chunk_name(self, content):
        if content.count(0) == len(content):
            return ZERO_ID
        return blake3.blake3(content).digest() if self.keys is None else keyed(self.keys.chunks, content)

    def chunk(self, identity, pack, slot, length):
        content = self.record(identity, pack, slot, KIND_CHUNK, lambda raw: self.chunk_name(raw) == identity)
        need(len(content) == length, f"chunk {identity.hex()} has another length than its map says")
        return content

    def image_node(self, identity, pack, slot, level):
        def prove(raw):
            if len(raw) != 40968 or raw[0] != level:
                return False
            material = raw[:1] + raw[8:8 + 32 * FAN_OUT]
            if self.keys is None:
                return derive("holdfast image map node v1", material) == identity
            return keyed(self.keys.image_nodes, material) == identity

        raw = self.record(identity, pack, slot, KIND_IMAGE, prove)
        for number in range(FAN_OUT):
            below = raw[8 + 32 * number:40 + 32 * number]
            yield (below, *struct.unpack_from("<II", raw, 8 + 32 * FAN_OUT + 8 * number))

    def chunks_of_disk(self, image):
        """Number and content of every chunk that is not all zero, in order."""
        size = image["size_bytes"]
        need(size % 512 == 0 and 512 <= size <= 1 << 60, "a size that no disk has")
        depth = 1
        while CHUNK * FAN_OUT ** depth < size:
            depth += 1
        count = -(-size // CHUNK)

        def walk(pointer, level, first):
            identity, pack, slot = pointer
            if identity == ZERO_ID:
                return
            if level < 0:
                need(first < count, "the map goes on behind the disk")
                yield first, self.chunk(identity, pack, slot, CHUNK)
                return
            for number, below in enumerate(self.image_node(identity, pack, slot, level)):
                yield from walk(below, level - 1, first + number * FAN_OUT ** level)

        yield from walk(pointer_of(image["root"]), depth - 1, 0)

    def pieces_of_stream(self, stream):
        """The stream's bytes in order."""
        need(1 <= stream["depth"] <= 6, "a depth that no stream has")

        def walk(pointer, level, length):
            identity, pack, slot = pointer
            if level < 0:
                need(1 <= length <= RECORD_MAX, "a chunk of a length that none has")
                yield bytes(length) if identity == ZERO_ID else self.chunk(identity, pack, slot, length)
                return
            entries = self.stream_node(identity, pack, slot, level)
            need(sum(entry[1] for entry in entries) == length, "the lengths below do not add up")
            for below, below_length in entries:
                yield from walk(below, level - 1, below_length)

        yield from walk(pointer_of(stream["root"]), stream["depth"] - 1, stream["size_bytes"])

    def stream_node(self, identity, pack, slot, level):
        def entries(raw):
            count, = struct.unpack_from("<I", raw, 4)
            need(count <= FAN_OUT and len(raw) == 8 + 48 * count, "a stream's node has another length")
            for at in range(8, len(raw), 48):
                below_pack, below_slot, length = struct.unpack_from("<IIQ", raw, at + 32)
                yield (raw[at:at + 32], below_pack, below_slot), length

        def prove(raw):
            if len(raw) < 8 or raw[0] != level:
                return False
            material = raw[:1] + b"".join(
                pointer[0] + struct.pack("<Q", length) for pointer, length in entries(raw))
            if self.keys is None:
                return derive("holdfast stream map node v1", material) == identity
            return keyed(self.keys.stream_nodes, material) == identity

        return list(entries(self.record(identity, pack, slot, KIND_STREAM, prove)))

    # What a person wants.

    def restore_disk(self, image, path):
        with open(path, "xb") as file:
            file.truncate(image["size_bytes"])
            for number, content in self.chunks_of_disk(image):
                file.seek(number * CHUNK)
                file.write(content[:image["size_bytes"] - number * CHUNK])

    def restore_stream(self, stream, path):
        with open(path, "xb") as file:
            for piece in self.pieces_of_stream(stream):
                file.write(piece)

    def excluded(self, image, streams):
        """First byte and end of each stretch that was left out of a disk."""
        if "excluded" not in image:
            return []
        names = [stream for stream in streams if stream["name"] == image["excluded"]["stream"]]
        need(len(names) == 1, "what was left out is in no stream")
        need(names[0]["size_bytes"] <= 8 + 16 * (1 << 22), "more was left out than can be")
        stored = b"".join(self.pieces_of_stream(names[0]))
        need(stored[:8] == b"HFEXCL01" and len(stored) % 16 == 8, "what was left out is not as it must be")
        ranges, behind = [], -1
        for start, length in struct.iter_unpack("<QQ", stored[8:]):
            need(start > behind and length > 0 and (start | length) % 512 == 0, "stretches out of order")
            behind = start + length
            need(behind <= image["size_bytes"], "a stretch beyond the disk")
            ranges.append([start, behind])
        total = sum(end - start for start, end in ranges)
        need(ranges and total == image["excluded"]["total_bytes"], "another total")
        return ranges

    def disk_hashes(self, image):
        """BLAKE3 of the whole disk, or null above 1 GiB; and of every chunk that is not zero behind its number."""
        size, whole, data, end = image["size_bytes"], blake3.blake3(), blake3.blake3(), 0
        small = size <= 1 << 30
        for number, content in self.chunks_of_disk(image):
            content = content[:size - number * CHUNK]
            data.update(struct.pack("<Q", number))
            data.update(content)
            if small:
                add_zeroes(whole, number * CHUNK - end)
                whole.update(content)
                end = number * CHUNK + len(content)
        if small:
            add_zeroes(whole, size - end)
        return {
            "name": image["name"],
            "size_bytes": size,
            "blake3": whole.hexdigest() if small else None,
            "data_blake3": data.hexdigest(),
            "excluded": image["excluded_ranges"],
        }

    def stream_hash(self, stream):
        hasher, length = blake3.blake3(), 0
        for piece in self.pieces_of_stream(stream):
            hasher.update(piece)
            length += len(piece)
        need(length == stream["size_bytes"], "the stream has another length")
        return {"name": stream["name"], "size_bytes": length, "blake3": hasher.hexdigest()}

    def hashes(self):
        return [
            {
                "point": point["point"],
                "configuration": point["configuration"],
                "disks": [self.disk_hashes(image) for image in point["images"]],
                "streams": [self.stream_hash(stream) for stream in point["streams"]],
            }
            for point in self.points()
        ]


def add_zeroes(hasher, count):
    zeroes = bytes(1 << 20)
    while count > 0:
        hasher.update(zeroes[:count])
        count -= len(zeroes)


def pointer_of(stored):
    identity = bytes.fromhex(stored["id"])
    need(len(identity) == 32, "an id of another length")
    return identity, stored["pack"], stored["slot"]


def read_secret(arguments):
    if arguments.key_file:
        with open(arguments.key_file, "rb") as file:
            content = file.read()
        return "key", content if len(content) == 32 else parse_key_text(content.decode())
    if arguments.passphrase_file:
        with open(arguments.passphrase_file, encoding="utf-8") as file:
            return "passphrase", file.read().rstrip("\r\n").encode()
    return None


def find_point(reader, name):
    for point in reader.points():
        if point["point"] == name:
            return point
    raise Damage(f"there is no restore point {name}")


def find_stream(point, name):
    for stream in point["streams"]:
        if stream["name"] == name:
            return stream
    raise Damage(f"{point['point']} has no stream {name}")


def compare(reader, path):
    with open(path, encoding="utf-8") as file:
        expected = json.load(file)
    need(reader.repository == expected["repository"], "another repository")
    found = reader.hashes()
    names = [point["point"] for point in found]
    need(names == [point["point"] for point in expected["points"]], f"other points: {names}")
    for mine, wanted in zip(found, expected["points"]):
        for disk in wanted["disks"]:
            # Older ones say nothing of it: nothing was left out.
            disk.setdefault("excluded", [])
        for part in wanted:
            need(mine[part] == wanted[part], f"{part} of {mine['point']}: {mine[part]} instead of {wanted[part]}")
    need(not set(expected.get("expired", [])) & set(names), "an expired point is there")
    for name, marks in expected.get("marks", {}).items():
        need(find_point(reader, name)["marks"] == marks, f"other marks of {name}")
    print(json.dumps({"points": len(found), "disks": sum(len(point["disks"]) for point in found),
                      "streams": sum(len(point["streams"]) for point in found)}))


def run(arguments):
    reader = Reader(arguments.repository, read_secret(arguments), arguments.scan, arguments.no_places)
    if arguments.command == "list":
        shown = ["point", "kind", "created_unix_nanoseconds", "parent", "marks"]
        print(json.dumps([{field: point[field] for field in shown} | {
            "disks": [image["name"] for image in point["images"]],
            "streams": [stream["name"] for stream in point["streams"]],
        } for point in reader.points()], indent=2))
    elif arguments.command == "disk":
        images = find_point(reader, arguments.point)["images"]
        need(0 <= arguments.number < len(images), f"{arguments.point} has {len(images)} disks, numbered from 0")
        reader.restore_disk(images[arguments.number], arguments.file)
    elif arguments.command == "stream":
        reader.restore_stream(find_stream(find_point(reader, arguments.point), arguments.name), arguments.file)
    elif arguments.command == "hashes":
        print(json.dumps({"repository": reader.repository, "points": reader.hashes()}, indent=2))
    else:
        compare(reader, arguments.file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--scan", action="store_true", help="look at no table")
    parser.add_argument("--no-places", action="store_true", help="trust no place in a map")
    parser.add_argument("--key-file")
    parser.add_argument("--passphrase-file")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    disk = commands.add_parser("disk")
    disk.add_argument("point")
    disk.add_argument("number", type=int)
    disk.add_argument("file")
    stream = commands.add_parser("stream")
    stream.add_argument("point")
    stream.add_argument("name")
    stream.add_argument("file")
    commands.add_parser("hashes")
    commands.add_parser("compare").add_argument("file")
    try:
        run(parser.parse_args())
    except (Damage, OSError, ValueError, KeyError) as fault:
        print(f"holdfast_reader: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
