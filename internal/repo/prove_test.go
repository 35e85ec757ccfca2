package repo

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// Every object of a repository proves to be what was stored; with any bit turned, cut at any length, or with the bytes of another object
// it does not.
func TestProve(t *testing.T) {
	t.Parallel()
	l := newLittle(t)
	if err := must(openAgain(t, l.st)).PutScrubClaim(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	r := must(openAgain(t, l.st))
	p := r.Prover()
	kinds := map[string]bool{}
	for _, name := range l.st.Names() {
		if !Provable(name) {
			t.Errorf("%s cannot be proven", name)
			continue
		}
		body := must(l.st.Get(t.Context(), name, maxPack))
		seen := []byte(nil)
		proof, err := p.Prove(t.Context(), name, func(b []byte) { seen = bytes.Clone(b) })
		if err != nil || proof.Bad != "" || proof.Read != int64(len(body)) || !bytes.Equal(seen, body) {
			t.Errorf("%s: %+v, %v", name, proof, err)
		}
		if kinds[kindOf(name)] {
			continue
		}
		kinds[kindOf(name)] = true
		spoil := func(what string, at int, b []byte) {
			t.Helper()
			if err := l.st.Put(t.Context(), name, b); err != nil {
				t.Fatal(err)
			}
			proof, err := p.Prove(t.Context(), name, nil)
			if err != nil || proof.Bad == "" || proof.Read != 2*int64(len(b)) {
				t.Errorf("%s, %s at %d: %+v, %v", name, what, at, proof, err)
			}
		}
		if kindOf(name) == "keys" || kindOf(name) == markerName || kindOf(name) == "epochs" {
			spoil("a cut", 0, body[:len(body)/2]) // of JSON some bits mean nothing
		} else {
			for at := 0; at < len(body); at += 1 + len(body)/200 {
				b := bytes.Clone(body)
				b[at] ^= 1 << (at % 8)
				spoil("a flip", at, b)
				spoil("a cut", at, body[:at])
			}
			spoil("more", len(body), append(bytes.Clone(body), 0))
		}
		if err := l.st.Put(t.Context(), name, body); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"packs", "index", "base", "snapshots", "log", "logfiles", "marks", "summaries", "signers", "systems", "collections", "graves", "keys", "epochs", scrubName, markerName} {
		if !kinds[kind] {
			t.Errorf("none of the objects is of %s", kind)
		}
	}
}

// What the store does not answer is no damage, and neither is what is gone, or has been sealed with keys that came since.
func TestProveTellsErrorsFromDamage(t *testing.T) {
	t.Parallel()
	l := newLittle(t)
	f := storetest.NewFaulty(l.st)
	r := must(openAgain(t, f))
	p := r.Prover()
	pack := ""
	for _, n := range l.st.Names() {
		if strings.HasPrefix(n, prefixPacks) {
			pack = n
		}
	}
	for _, kind := range []store.Kind{store.Busy, store.Denied, store.Other} {
		f.SetFaults(storetest.Fault{Op: "get", When: storetest.Before, Kind: kind})
		if proof, err := p.Prove(t.Context(), pack, nil); !errors.Is(err, storetest.ErrInjected) || proof.Bad != "" {
			t.Errorf("kind %d: %+v, %v", kind, proof, err)
		}
	}
	f.SetFaults(storetest.Fault{Op: "get", When: storetest.Before, Kind: store.Damaged}) // a sector that the disk refuses
	if proof, err := p.Prove(t.Context(), pack, nil); err != nil || proof.Bad == "" {
		t.Errorf("a bad sector: %+v, %v", proof, err)
	}
	f.SetFaults()
	if _, err := p.Prove(t.Context(), prefixPacks+"main/00/"+strings.Repeat("0", 32), nil); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	other := must(openAgain(t, l.st))
	if _, err := other.Rotate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	mustSave(t, other, littleFiles(77, []byte("after the rotation")))
	unknown := 0
	for _, n := range l.st.Names() {
		if !strings.HasPrefix(n, prefixPacks) {
			continue
		}
		if proof, err := p.Prove(t.Context(), n, nil); errors.Is(err, ErrKeysRotated) {
			unknown++
		} else if err != nil || proof.Bad != "" {
			t.Errorf("%s: %+v, %v", n, proof, err)
		}
	}
	if unknown == 0 {
		t.Error("no pack was sealed with the new keys")
	}
}
