package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// rolled makes a repository with the snapshots of n hours of the last day of April and of May, in rolls as far as they are worth
// some, and returns what a reader lists.
func rolled(t *testing.T, st store.Store, n int) (*Repository, []SnapshotID) {
	t.Helper()
	r := newRepository(t, st)
	now := time.Date(2026, 4, 30, 0, 0, 0, 0, time.UTC)
	r.opts.Now = func() time.Time { return now }
	for range n {
		hourlySnapshot(t, r)
		now = now.Add(time.Hour)
	}
	must(r.Roll(t.Context(), "orders-db"))
	return r, listedAs(t, reopen(t, st))
}

func hourlySnapshot(t *testing.T, r *Repository) {
	t.Helper()
	w := must(r.Begin(t.Context(), "orders-db", DefaultGroup))
	m, tree := &Manifest{Engine: "test"}, w.NewTree(t.Context())
	if err := tree.Add("file", &Entry{Type: TypeFile}); err != nil {
		t.Fatal(err)
	}
	if err := tree.Finish(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// listedAs returns what is listed; each has to have the manifest that its object has.
func listedAs(t *testing.T, r *Repository) (ids []SnapshotID) {
	t.Helper()
	for _, l := range must(r.Snapshots(t.Context(), "orders-db")) {
		if own, err := r.Manifest(t.Context(), "orders-db", l.ID); err != nil || l.Err != nil || cmp.Diff(own, l.Manifest) != "" {
			t.Errorf("%s: %v, %v; (-object +listed)\n%s", l.ID, err, l.Err, cmp.Diff(own, l.Manifest))
		}
		ids = append(ids, l.ID)
	}
	return ids
}

const hoursRolled = 60

func names(st *storetest.Memory, prefix string) (out []string) {
	for _, n := range st.Names() {
		if strings.HasPrefix(n, prefix) {
			out = append(out, n)
		}
	}
	return out
}

// What a roll says counts for what is listed, as it is listed, and for nothing else.
func TestRollsTellNothingThatIsNotThere(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r, all := rolled(t, st, hoursRolled)
	if len(all) != hoursRolled || len(names(st, prefixRolls)) != 2 {
		t.Fatalf("%d snapshots, rolls %v; want %d in two months", len(all), names(st, prefixRolls), hoursRolled)
	}
	var m meter.Meter
	counted := reopen(t, m.Store(st))
	before := total(&m).requests
	must(counted.Snapshots(t.Context(), "orders-db"))
	if n := total(&m).requests - before; n > 4 { // the listing, two rolls, the signer
		t.Errorf("%d requests, although everything is in two rolls", n)
	}
	// One is deleted, of another the name stays taken: its writer's intent is still there.
	if err := r.Forget(t.Context(), "orders-db", all[3]); err != nil {
		t.Fatal(err)
	}
	if err := st.Put(t.Context(), r.intentName("orders-db", all[5]), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), "orders-db", all[5]); err != nil {
		t.Fatal(err)
	}
	left := slices.Delete(slices.Delete(slices.Clone(all), 5, 6), 3, 4)
	if diff := cmp.Diff(left, listedAs(t, reopen(t, st))); diff != "" {
		t.Errorf("after two were forgotten (-want +got):\n%s", diff)
	}
	l := must(reopen(t, st).Latest(t.Context(), "orders-db"))
	if l.Count != len(left) || l.Manifest.ID != left[len(left)-1] {
		t.Errorf("%d snapshots, the newest %s; want %d, %s", l.Count, l.Manifest.ID, len(left), left[len(left)-1])
	}
}

// A roll that is damaged, of another month, or that says something else costs time only.
func TestRollsThatAreWrongDoNotCount(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r, all := rolled(t, st, hoursRolled)
	rolls := names(st, prefixRolls)
	april, may := must(st.Get(t.Context(), rolls[0], maxRoll)), must(st.Get(t.Context(), rolls[1], maxRoll))
	texts := must(r.readRoll(t.Context(), rolls[1]))
	swapped, other := maps.Clone(texts), slices.Sorted(maps.Keys(texts))
	for _, id := range other[1:] { // another snapshot's manifest under its name
		swapped[id] = texts[other[0]]
	}
	seal := func(name string, plain []byte) []byte { return r.keys.SealWhole(seal.KindRoll, name, plain) }
	flipped := bytes.Clone(may)
	flipped[len(flipped)/2] ^= 1
	for what, b := range map[string][]byte{
		"damaged": flipped, "empty": {}, "cut": may[:len(may)/2], "of another month": april, "not a roll": []byte("hello"),
		"of version 2": seal(rolls[1], []byte{2, 0, 0, 0}), "no frame": seal(rolls[1], []byte{1, 0, 0, 0, 9, 9}),
		"other manifests": seal(rolls[1], must(swapped.encode())), "empty inside": seal(rolls[1], must(roll{}.encode())),
		"an entry too long": seal(rolls[1], frameOf(append([]byte(other[0]), 0xff, 0xff, 0xff, 0xff))),
		"an entry cut off":  seal(rolls[1], frameOf([]byte(other[0])[:9])),
		"not in order":      seal(rolls[1], frameOf(append(entryOf(other[1]), entryOf(other[0])...))),
	} {
		c := st.Clone()
		if err := c.Put(t.Context(), rolls[1], b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all, listedAs(t, reopen(t, c))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		// It is made again.
		if _, err := reopen(t, c).Roll(t.Context(), "orders-db"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if again, err := r.Beside(t.Context(), c, testOptions(t)); err != nil {
			t.Error(err)
		} else if got, err := again.readRoll(t.Context(), rolls[1]); what != "other manifests" && (err != nil || !maps.EqualFunc(got, texts, bytes.Equal)) {
			t.Errorf("%s: it was not written again: %v", what, err)
		}
	}
}

func entryOf(id SnapshotID) []byte { return append([]byte(id), 0, 0, 0, 0) }

func frameOf(b []byte) []byte {
	enc := must(zstd.NewWriter(nil))
	return enc.EncodeAll(b, []byte{rollVersion, 0, 0, 0})
}

// Rolls do not keep what was forgotten for ever, and months end.
func TestRollsForget(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r, all := rolled(t, st, hoursRolled)
	for _, id := range all[:24+20] { // April, and more than half of what May has
		if err := r.Forget(t.Context(), "orders-db", id); err != nil {
			t.Fatal(err)
		}
	}
	if n := must(r.Roll(t.Context(), "orders-db")); n != 0 || len(names(st, prefixRolls)) != 2 {
		t.Errorf("%d rolls were written for fewer snapshots than are worth one", n)
	}
	for range rollWorth {
		hourlySnapshot(t, r)
	}
	must(r.Roll(t.Context(), "orders-db"))
	want := all[24+20:]
	rolls := names(st, prefixRolls)
	if len(rolls) != 1 || path.Base(rolls[0]) != "202605" {
		t.Fatalf("rolls %v; want that of May", rolls)
	}
	texts := must(r.readRoll(t.Context(), rolls[0]))
	if len(texts) != len(want)+rollWorth {
		t.Errorf("it has %d snapshots, want %d", len(texts), len(want)+rollWorth)
	}
	if got := listedAs(t, reopen(t, st)); len(got) != len(want)+rollWorth {
		t.Errorf("%d are listed, want %d", len(got), len(want)+rollWorth)
	}
}

// Whatever fails while rolls are written or read: what is listed is what is there.
func TestRollFaults(t *testing.T) {
	t.Parallel()
	prepared := storetest.NewMemory()
	before := newRepository(t, prepared)
	now := time.Date(2026, 4, 30, 12, 0, 0, 0, time.UTC)
	before.opts.Now = func() time.Time { return now }
	for range rollWorth {
		hourlySnapshot(t, before)
		now = now.Add(time.Hour)
	}
	storetest.EachFault(t, storetest.Sweep{
		New: func(*testing.T) store.Store { return prepared.Clone() },
		Run: func(t *testing.T, s store.Store) error {
			r, err := Open(t.Context(), s, seal.Credentials{Passphrase: passphrase}, testOptions(t))
			if err != nil {
				return err
			}
			defer r.Close() //nolint:errcheck // a cache
			_, err = r.Roll(t.Context(), "orders-db")
			return err
		},
		Check: func(t *testing.T, s store.Store, _ error) {
			if n := len(listedAs(t, reopen(t, s))); n != rollWorth {
				t.Errorf("%d snapshots are listed, want %d", n, rollWorth)
			}
			if _, err := reopen(t, s).Roll(context.WithoutCancel(t.Context()), "orders-db"); err != nil {
				t.Error(err)
			}
		},
		Kind: store.Denied, Moments: []storetest.Moment{storetest.Before, storetest.After},
	})
}

// The stranger reads rolls: section 7.
func TestRollsAreAsTheFormatSays(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	_, all := rolled(t, st, hoursRolled)
	s := strange(t, st)
	found := 0
	for _, n := range s.names("rolls/" + s.nameHash("orders-db") + "/") {
		b := s.open(n, 14)
		if !bytes.Equal(b[:4], []byte{1, 0, 0, 0}) {
			t.Fatalf("%s begins with %x", n, b[:4])
		}
		b = must(must(zstd.NewReader(nil)).DecodeAll(b[4:], nil))
		for last := ""; len(b) > 0; found++ {
			id, size := string(b[:25]), binary.LittleEndian.Uint32(b[25:])
			object := "snapshots/" + s.nameHash("orders-db") + "/" + id
			text := b[29 : 29+size]
			if !bytes.Equal(text, s.open(object, 3)) || len(s.objects[object]) != int(size)+60 || id <= last || id[:6] != path.Base(n) {
				t.Errorf("%s: the entry %s is not its snapshot's", n, id)
			}
			b, last = b[29+size:], id
		}
	}
	if found != len(all) {
		t.Errorf("%d entries, want %d", found, len(all))
	}
}

// strange returns a stranger who has what is in a store.
func strange(t *testing.T, st *storetest.Memory) *stranger {
	t.Helper()
	s := &stranger{objects: map[string][]byte{}}
	for _, n := range st.Names() {
		s.objects[n] = must(st.Get(t.Context(), n, maxRoll))
	}
	s.unlock(passphrase)
	return s
}
