#!/usr/bin/env python3
"""Verifies a pack of Holdfast's evidence without Holdfast: with Python 3.8 or later and openssl 3, offline.

    python3 verify.py [--checkpoint FILE]... [--signer ID]...

--checkpoint is a checkpoint that you kept from earlier: the log must still begin with what it says.
--signer is a signer that you know (32 hexadecimal digits): a log of anybody else is an error.
It prints each record, and ends with 0 only if everything is proven. Beside it, README.md says what is proven.
"""
import argparse, base64, glob, hashlib, json, os, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
FAILED = []


def fail(where, text):
    FAILED.append(where)
    print("FAILED: %s: %s" % (where, text))


def read(path):
    with open(path, "rb") as f:
        return f.read()


def leaf_hash(record):  # RFC 6962, section 2.1
    return hashlib.sha256(b"\x00" + record).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    stack = []  # (height, hash) of full subtrees, the largest first
    for leaf in leaves:
        height, h = 0, leaf
        while stack and stack[-1][0] == height:
            h = node_hash(stack.pop()[1], h)
            height += 1
        stack.append((height, h))
    h = stack.pop()[1]
    while stack:
        h = node_hash(stack.pop()[1], h)
    return h


def included(index, size, leaf, proof, root):  # RFC 9162, section 2.1.3.2
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def consistent(first, second, first_root, second_root, proof):  # RFC 9162, section 2.1.4.2
    if not 0 < first < second or not proof and first & (first - 1):
        return False
    if first & (first - 1) == 0:
        proof = [first_root] + proof
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = proof[0]
    for c in proof[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == first_root and sr == second_root


def signed(key, message, signature):
    with tempfile.TemporaryDirectory() as d:
        for name, content in (("message", message), ("signature", signature)):
            with open(os.path.join(d, name), "wb") as f:
                f.write(content)
        return subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin",
             "-in", os.path.join(d, "message"), "-sigfile", os.path.join(d, "signature")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def checkpoint(note, key):
    """Returns origin, size and root of a signed note (C2SP tlog-checkpoint), whose signature is proven."""
    text, _, signatures = note.partition(b"\n\n")
    text += b"\n"
    origin, size, root = text.decode().split("\n")[:3]
    for line in signatures.decode().splitlines():
        dash, name, blob = line.split(" ")
        raw = base64.b64decode(blob)
        if dash == "\u2014" and name == origin and signed(key, text, raw[4:]):
            return origin, int(size), base64.b64decode(root)
    raise ValueError("the checkpoint is not signed with the key of its log")


def statement(record, key, signer):
    """Returns what a DSSE envelope says, whose signature is proven."""
    envelope = json.loads(record)
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    for s in envelope["signatures"]:
        if s["keyid"] == signer and signed(key, message, base64.b64decode(s["sig"])):
            return json.loads(payload)
    raise ValueError("the record is not signed with the key of its log")


def verify(log, kept, known):
    where, key = os.path.relpath(log, HERE), os.path.join(log, "key.pem")
    der = base64.b64decode("".join(l for l in read(key).decode().splitlines() if not l.startswith("-")))
    signer = hashlib.sha256(der[-32:]).hexdigest()[:32]
    if known and signer not in known:
        fail(where, "its signer %s is none that you know" % signer)
    origin, size, root = checkpoint(read(os.path.join(log, "checkpoint")), key)
    if origin.split("/")[-1] != signer:
        fail(where, "the key is not that of the log")
    leaves = [bytes.fromhex(l) for l in read(os.path.join(log, "leaves")).decode().split("\n")[:-1]]
    if len(leaves) != size or root_of(leaves) != root or any(len(l) != 32 for l in leaves):
        fail(where, "the hashes of the records are not those of which the root was signed")
    print("%s: %d records, signer %s" % (where, size, signer))
    before = None
    for path in sorted(glob.glob(os.path.join(log, "records", "*.json"))):
        name = os.path.join(where, "records", os.path.basename(path))
        try:
            index, record = int(os.path.basename(path)[:-5]), read(path)
            if before is not None and index != before + 1:
                fail(where, "record %d is not in the pack" % (before + 1))
            before = index
            proof = [base64.b64decode(p) for p in json.loads(read(os.path.join(log, "proofs", os.path.basename(path))))]
            if not included(index, size, leaf_hash(record), proof, root) or leaves[index] != leaf_hash(record):
                fail(name, "it is not in the log")
            s = statement(record, key, signer)
            p = s["predicate"]
            if [p["repository"], p["by"]["signer"]] != [origin.split("/")[1], signer]:
                fail(name, "it is of another repository or signer")
            print("  %d  %s  %s %s  %s%s" % (index, p["finished"], p["kind"], p.get("system", ""), p["outcome"],
                                           ": " + p["reason"] if p.get("reason") else ""))
        except Exception as e:  # whatever is wrong with one record, the others are looked at
            fail(name, e)
    for c in json.loads(read(os.path.join(log, "consistency.json"))):
        if not consistent(c["size"], size, base64.b64decode(c["root"]), root, [base64.b64decode(p) for p in c["proof"]]):
            fail(where, "the tree of %d records is no part of the log" % c["size"])
    for path, note in kept:
        if note.split(b"\n")[0].decode() != origin:
            continue
        o, n, r = checkpoint(note, key)
        if n > size:
            fail(where, "it is shorter than %s says: %d of %d records" % (path, size, n))
        elif root_of(leaves[:n]) != r:
            fail(where, "it does not begin with the %d records of %s" % (n, path))
        else:
            print("  it begins with the %d records of %s" % (n, path))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--checkpoint", action="append", default=[])
    a.add_argument("--signer", action="append", default=[])
    a = a.parse_args()
    kept = []
    for path in a.checkpoint:  # a file may hold several, one after the other
        notes = read(path).split(b"\n\nholdfast-evidence/")
        kept += [(path, n if i == 0 else b"holdfast-evidence/" + n) for i, n in enumerate(notes)]
    logs = sorted(glob.glob(os.path.join(HERE, "logs", "*")))
    if not logs:
        fail("the pack", "it has no log")
    found = set()
    for log in logs:
        try:
            verify(log, kept, a.signer)
            found.add(read(os.path.join(log, "checkpoint")).split(b"\n")[0])
        except Exception as e:
            fail(os.path.relpath(log, HERE), e)
    for path, note in kept:
        if note.split(b"\n")[0] not in found:
            print("not looked at: %s is of a log that is not in the pack: %s" % (path, note.split(b"\n")[0].decode()))
    print("%d things are not as they should be" % len(FAILED) if FAILED else "everything is proven")
    sys.exit(1 if FAILED else 0)


main()
