package evidence

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// tampered is a repository whose thief holds the repository's keys, and not the signer's.
type tampered struct {
	t    *testing.T
	st   *storetest.Memory
	h    host
	log  repo.EvidenceLog
	seen []Sighting
}

func (x *tampered) name(n uint64) string {
	return fmt.Sprintf("evidence/%s/%s/%016x", x.log.Scope, x.log.Signer, n)
}

func (x *tampered) entry(n uint64) *entry {
	x.t.Helper()
	e, err := readEntry(x.t.Context(), x.h.repo, x.log, n)
	if err != nil {
		x.t.Fatal(err)
	}
	return e
}

// put seals an entry under a number, as every holder of the repository's keys can.
func (x *tampered) put(n uint64, e *entry) {
	x.t.Helper()
	b, err := e.marshal()
	if err == nil {
		err = x.st.Put(x.t.Context(), x.name(n), x.h.repo.Keys().SealWhole(seal.KindEvidence, x.name(n), b))
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *tampered) remove(n uint64) {
	if err := x.st.Delete(x.t.Context(), x.name(n)); err != nil {
		x.t.Fatal(err)
	}
}

// lie is a record that the thief would like to be there, signed with a key of his.
func (x *tampered) lie(e *entry, by *seal.Signer) *entry {
	x.t.Helper()
	s := statement(testSystem, 99)
	s.By.Signer, s.Repository = x.log.Signer, x.h.repo.ID()
	signed, err := enclose(&s, by)
	if err != nil {
		x.t.Fatal(err)
	}
	out := *e
	out.envelope = signed
	return &out
}

func TestTamperingIsFound(t *testing.T) {
	const records = 9
	thief, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(x *tampered)
		want  FindingKind
	}{
		"nothing":                      {func(*tampered) {}, ""},
		"a byte of the object":         {func(x *tampered) { _ = x.st.Put(x.t.Context(), x.name(3), []byte("HFO1 nonsense")) }, Damaged},
		"a record removed":             {func(x *tampered) { x.remove(3) }, Missing},
		"the first one removed":        {func(x *tampered) { x.remove(0) }, Missing},
		"the last one removed":         {func(x *tampered) { x.remove(records - 1) }, Truncated},
		"all removed":                  {removeAll(records), Truncated},
		"another one in its place":     {func(x *tampered) { x.put(3, x.lie(x.entry(3), thief)) }, Damaged},
		"another one, even number":     {func(x *tampered) { x.put(4, x.lie(x.entry(4), thief)) }, Damaged},
		"two changed places":           {func(x *tampered) { a, b := x.entry(3), x.entry(5); x.put(3, b); x.put(5, a) }, Damaged},
		"envelopes changed places":     {swapEnvelopes(3, 5), Rewritten},
		"an envelope twice":            {func(x *tampered) { e := x.entry(5); e.envelope = x.entry(3).envelope; x.put(5, e) }, Rewritten},
		"another checkpoint":           {func(x *tampered) { e := x.entry(5); e.checkpoint = x.entry(3).checkpoint; x.put(5, e) }, Damaged},
		"a frontier":                   {func(x *tampered) { e := x.entry(5); e.frontier[0][0]++; x.put(5, e) }, Damaged},
		"the log under another signer": {otherSigner(records, thief), Unproven},
		"the signer's key":             {removeSigner, Unproven},
	} {
		t.Run(name, func(t *testing.T) {
			x := &tampered{t: t, st: storetest.NewMemory()}
			x.h = newHost(t, x.st, nil)
			for n := range records {
				x.h.record(t, testSystem, n)
			}
			x.log = repo.EvidenceLog{Scope: x.h.repo.EvidenceScope(testSystem), Signer: x.h.signer.Public().ID()}
			size, root, ok := x.h.recorder().Head(x.h.repo, testSystem)
			if !ok || size != records {
				t.Fatalf("the head is %d, %t", size, ok)
			}
			x.seen = []Sighting{{Seen{Origin(x.h.repo.ID(), x.log), size, hex.EncodeToString(root[:])}, "snapshot s", nil}}
			c.spoil(x)
			v := verified(t, x.seen, x.h.repo)
			found := map[FindingKind]bool{}
			for _, f := range v.Findings {
				found[f.Kind] = true
			}
			if c.want == "" && len(v.Findings) > 0 || c.want != "" && !found[c.want] {
				t.Errorf("found %v, want %q", v.Findings, c.want)
			}
			if c.want == "" && v.Logs[0].Sightings != 1 {
				t.Errorf("the sighting was not compared: %+v", v.Logs)
			}
		})
	}
}

func removeAll(records int) func(*tampered) {
	return func(x *tampered) {
		for n := range records {
			x.remove(uint64(n))
		}
	}
}

func swapEnvelopes(a, b uint64) func(*tampered) {
	return func(x *tampered) {
		one, two := x.entry(a), x.entry(b)
		one.envelope, two.envelope = two.envelope, one.envelope
		x.put(a, one)
		x.put(b, two)
	}
}

// otherSigner registers a key of the thief's under the name of the signer's.
func otherSigner(records int, thief *seal.Signer) func(*tampered) {
	return func(x *tampered) {
		key := thief.Public()
		name := "signers/" + x.log.Signer
		body := fmt.Sprintf(`{"public":%q,"host":"h"}`, base64.StdEncoding.EncodeToString(key[:]))
		_ = x.st.Put(x.t.Context(), name, x.h.repo.Keys().SealWhole(seal.KindSigner, name, []byte(body)))
		// Now the log of the thief's own making takes its place.
		h := head{}
		for n := range records {
			e, err := h.next(Origin(x.h.repo.ID(), x.log), x.lie(&entry{}, thief).envelope, thief)
			if err != nil {
				x.t.Fatal(err)
			}
			x.put(uint64(n), e)
			h = e.head()
		}
		// Whoever looks reads the key again.
		x.h.repo = x.h.open(x.t, x.st, x.h.repo)
	}
}

func removeSigner(x *tampered) { _ = x.st.Delete(x.t.Context(), "signers/"+x.log.Signer) }

// A signer whose state was put back signs one number twice, in two replicas that have not seen each other: this shows.
func TestForksAndGapsOfReplicas(t *testing.T) {
	a := storetest.NewMemory()
	h := newHost(t, a, nil)
	h.record(t, testSystem, 1, 2)
	b := storetest.NewMemory()
	if err := h.repo.CopyKeys(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	there := h.open(t, b, h.repo)
	if n, err := there.CopyEvidence(t.Context(), h.repo, testSystem); n != 2 || err != nil {
		t.Fatalf("copied %d, %v", n, err)
	}
	if n, err := there.CopyEvidence(t.Context(), h.repo, testSystem); n != 0 || err != nil {
		t.Fatalf("copied %d again, %v", n, err)
	}
	// The first site is away: the next records go to the other one.
	away := h
	away.repo = there
	away.record(t, testSystem, 3, 4)
	h.record(t, testSystem, 5)
	v := verified(t, nil, h.repo)
	if len(v.Findings) != 1 || v.Findings[0].Kind != Missing || *v.Findings[0].Index != 2 {
		t.Errorf("at the first site alone: %v", v.Findings)
	}
	if v := verified(t, nil, h.repo, there); len(v.Findings) != 0 || len(v.Notes) != 2 {
		t.Errorf("at both: %v, %v", v.Findings, v.Notes)
	}
	if n, err := h.repo.CopyEvidence(t.Context(), there, testSystem); n != 2 || err != nil {
		t.Fatalf("copied %d back, %v", n, err)
	}
	if n, err := there.CopyEvidence(t.Context(), h.repo, testSystem); n != 1 || err != nil {
		t.Fatalf("copied %d, %v", n, err)
	}
	if v := verified(t, nil, h.repo, there); len(v.Findings)+len(v.Notes) != 0 {
		t.Errorf("%v, %v", v.Findings, v.Notes)
	}
	// State and one replica are lost, so that a number is used again.
	h.record(t, testSystem, 6)
	away.state = t.TempDir()
	away.record(t, testSystem, 7)
	v = verified(t, nil, h.repo, there)
	if len(v.Findings) == 0 || v.Findings[0].Kind != Forked {
		t.Errorf("a fork is not found: %v", v.Findings)
	}
}

// Whoever records says how long the logs of others are: the end of these cannot be cut off without that.
func TestOthersAreWitnesses(t *testing.T) {
	st := storetest.NewMemory()
	one := newHost(t, st, nil)
	one.record(t, testSystem, 1, 2, 3)
	two := newHost(t, st, one.repo)
	two.record(t, testSystem, 4) // looks
	two.record(t, testSystem, 5) // and tells
	if v := verified(t, nil, one.repo); len(v.Findings) > 0 || v.Logs[0].Sightings != 1 {
		t.Fatalf("%+v", v)
	}
	x := &tampered{t: t, st: st, h: one, log: repo.EvidenceLog{Scope: one.repo.EvidenceScope(testSystem), Signer: one.signer.Public().ID()}}
	x.remove(2)
	v := verified(t, nil, one.repo)
	if len(v.Findings) != 1 || v.Findings[0].Kind != Truncated || !strings.Contains(v.Findings[0].Text, "2 records") {
		t.Errorf("%v", v.Findings)
	}
	x.remove(1)
	x.remove(0)
	v = verified(t, nil, one.repo)
	if len(v.Findings) != 1 || v.Findings[0].Kind != Truncated {
		t.Errorf("a whole log is removed: %v", v.Findings)
	}
}
