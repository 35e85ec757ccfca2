package repo

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// replicaNamed returns a replica's name of one repeated byte.
func replicaNamed(hex string) string { return strings.Repeat(hex, 16) }

func TestHolders(t *testing.T) {
	h := NewHolders()
	put := func(site string, start, end uint64) { h.Put(site, "log/x/00000001/"+rangeName(start, end)) }
	want := func(why string, here, there uint64) {
		t.Helper()
		var all []Holder
		for _, w := range []Holder{{"here", replicaNamed("0a"), here}, {"there", replicaNamed("0b"), there}} {
			if w.Upto > 0 {
				all = append(all, w)
			}
		}
		if d := cmp.Diff(all, h.Of(1)); d != "" {
			t.Errorf("%s: -want +got\n%s", why, d)
		}
	}
	h.Join("here", replicaNamed("0a"), nil)
	put("here", 100, 110)
	want("nobody knows where it begins", 0, 0)
	h.Begin(1, 100)
	want("it begins", 110, 0)
	h.Join("there", replicaNamed("0b"), map[StreamID]uint64{1: 90})
	put("there", 120, 130)
	put("there", 110, 120)
	put("there", 140, 150)
	want("what comes before others is not counted", 110, 90)
	put("here", 105, 120)
	put("nowhere", 0, 999)
	h.Put("here", "summaries/x/00000001/"+rangeName(110, 999))
	h.Put("here", "log/x/00000002/"+rangeName(110, 999))
	want("other objects, streams and sites", 120, 90)
	h.Raise("there", map[StreamID]uint64{1: 110})
	want("what it had when it began is there", 120, 130)
	h.Raise("there", map[StreamID]uint64{1: 50})
	put("there", 130, 140)
	want("the hole is filled", 120, 150)
	if d := cmp.Diff(map[StreamID]uint64{1: 150}, h.At("there")); d != "" {
		t.Error(d)
	}
	put("there", 150+mostAhead, 151+mostAhead)
	want("too far ahead", 120, 0)
	put("there", 150, 151)
	want("not so far", 120, 151)
	h.Begin(1, 1<<40)
	want("a gap of the source", 1<<40, 1<<40)
	h.Begin(2, 5)
	if d := cmp.Diff([]Holder{{"here", replicaNamed("0a"), 5}, {"there", replicaNamed("0b"), 5}}, h.Of(2)); d != "" {
		t.Errorf("another stream: %s", d)
	}
	h.Leave("there")
	put("there", 1<<40, 1<<40+1)
	want("who has left", 1<<40, 0)
	h.Leave("here")
	h.Begin(1, 1<<41)
	want("nobody", 0, 0)
}

func rangeName(start, end uint64) string { return fmt.Sprintf("%016x-%016x", start, end) }

// An extent says what was known before it, whoever stores it; where nothing was, it is as it always was.
func TestExtentsSayWhoHasTheLog(t *testing.T) {
	st := storetest.NewMemory()
	r := newRepository(t, st)
	log := r.Log("orders-db")
	if name := must(log.Replica(t.Context())); name != "" {
		t.Fatalf("a repository without a writer has the replica %q", name)
	}
	name := must(r.Replica(t.Context()))
	if got := must(log.Replica(t.Context())); got != name {
		t.Errorf("the replica is %q, want %q", got, name)
	}
	known := NewHolders()
	known.Join("here", name, nil)
	log.Tell(known, "here")
	lr := log.Reader()
	log.Begin(1, 1000)
	for i, start := range []uint64{1000, 3000, 2000, 4000} {
		if err := log.Encoder().Put(t.Context(), 1, start, position(start, start+1000), ExtentClock{}, Compression(i%2)); err != nil {
			t.Fatal(err)
		}
	}
	extents := must(log.Extents(t.Context(), 1, 0))
	for i, want := range []uint64{1000, 2000, 2000, 4000} {
		got, _, err := lr.Holders(t.Context(), extents[i])
		if d := cmp.Diff([]Holder{{"here", name, want}}, got); d != "" || err != nil {
			t.Errorf("extent %d: %v, -want +got\n%s", i, err, d)
		}
		b, _, err := lr.Read(t.Context(), extents[i])
		if start := extents[i].Start; err != nil || !slices.Equal(b, position(start, start+1000)) {
			t.Errorf("extent %d differs: %v", i, err)
		}
	}
	known.Leave("here")
	if err := log.Encoder().Put(t.Context(), 1, 5000, position(5000, 6000), ExtentClock{}, Fast); err != nil {
		t.Fatal(err)
	}
	if got, _, err := lr.Holders(t.Context(), Extent{1, 5000, 6000, 0}); got != nil || err != nil {
		t.Errorf("nothing was known, and it says %v, %v", got, err)
	}
}

func TestListsOfReplicasAreRead(t *testing.T) {
	whole := []Holder{{"zurich", replicaNamed("0a"), 1 << 40}, {"", replicaNamed("0b"), 0}}
	b := appendHolders(nil, append(whole, Holder{"", "no replica", 5}))
	got, err := parseHolders(b)
	if d := cmp.Diff(whole, got); d != "" || err != nil {
		t.Errorf("%v, -want +got\n%s", err, d)
	}
	for n := range len(b) {
		if got, err := parseHolders(b[:n]); err == nil && n != 0 && n != replicaBytes+9+len("zurich") {
			t.Errorf("%d of %d bytes are read as %v", n, len(b), got)
		}
	}
	many := make([]Holder, 1000)
	for i := range many {
		many[i] = Holder{"", replicaNamed("0a"), uint64(i)}
	}
	if b := appendHolders(nil, many); len(b) > maxHolders || len(b) < maxHolders-30 {
		t.Errorf("a list of %d bytes", len(b))
	}
}
