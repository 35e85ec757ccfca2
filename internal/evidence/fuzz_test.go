package evidence

import (
	"bytes"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// fuzzLog is a log with some entries.
func fuzzLog(f *testing.F) (origin string, key seal.PublicKey, entries [][]byte) {
	f.Helper()
	signer, err := seal.SignerFromSeed(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	key = signer.Public()
	l := repo.EvidenceLog{Scope: repo.RepositoryScope, Signer: key.ID()}
	origin = Origin("00112233445566778899aabbccddeeff", l)
	h := head{}
	for n := range 4 {
		s := statement("", n)
		s.By.Signer = key.ID()
		envelope, err := enclose(&s, signer)
		if err != nil {
			f.Fatal(err)
		}
		e, err := h.next(origin, envelope, signer)
		if err != nil {
			f.Fatal(err)
		}
		b, err := e.marshal()
		if err != nil {
			f.Fatal(err)
		}
		entries, h = append(entries, b), e.head()
	}
	return origin, key, entries
}

// Any bytes as an entry: no panic, and what proves to be of a key has what that key has signed, whatever else was changed.
func FuzzEntry(f *testing.F) {
	origin, key, entries := fuzzLog(f)
	signed := map[string]bool{}
	for _, b := range entries {
		f.Add(b)
		e, err := parseEntry(b)
		if err != nil {
			f.Fatal(err)
		}
		payload, err := openEnvelope(e.envelope, key)
		if err != nil {
			f.Fatal(err)
		}
		signed[string(payload)] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(b)
		if err != nil {
			return
		}
		again, err := e.marshal()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseEntry(again); err != nil || !bytes.Equal(back.envelope, e.envelope) || back.index != e.index || len(back.frontier) != len(e.frontier) {
			t.Errorf("a round trip changes %q: %v", b, err)
		}
		if payload, err := openEnvelope(e.envelope, key); err == nil && !signed[string(payload)] {
			t.Errorf("nobody has signed %q", payload)
		}
		c, err := e.prove(origin, e.index, key)
		if err != nil {
			return
		}
		was, err := parseEntry(entries[c.Size-1])
		if err != nil || was.frontier.root() != c.Root {
			t.Errorf("nobody has signed the tree of %q", b)
		}
	})
}

// Any bytes as a checkpoint of which nobody has looked at the signature.
func FuzzCheckpoint(f *testing.F) {
	_, key, entries := fuzzLog(f)
	for _, b := range entries {
		e, err := parseEntry(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.checkpoint)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := readCheckpoint(b)
		if err != nil {
			return
		}
		if back, err := parseCheckpoint(c.text()); err != nil || back != c {
			t.Errorf("a round trip changes %q: %v", b, err)
		}
		if signed, err := openCheckpoint(b, key); err == nil && (signed != c || c.Size == 0 || c.Size > uint64(len(entries))) {
			t.Errorf("nobody has signed %q", b)
		}
	})
}
