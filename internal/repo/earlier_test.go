package repo

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

const month = 30 * 24 * time.Hour

// vaulted is a repository in a store that keeps versions, with what somebody needs of it.
type vaulted struct {
	st   *storetest.Versioned
	want map[SnapshotID]files
	log  []byte
}

func (v *vaulted) open(t *testing.T, st store.Store) *Repository {
	t.Helper()
	o := testOptions(t)
	o.Lock, o.Now = month, v.st.Now
	r, err := Open(t.Context(), st, seal.Credentials{Passphrase: passphrase}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// newVaulted takes snapshots, one of which is forgotten and collected, and puts log and marks.
func newVaulted(t *testing.T) *vaulted {
	t.Helper()
	v := &vaulted{st: storetest.NewVersioned(LockFor(month)), want: map[SnapshotID]files{}}
	o := testOptions(t)
	o.Lock, o.Now = month, v.st.Now
	r, err := Init(t.Context(), v.st, []seal.Recipient{testRecipient(t)}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	must(r.RenewLock(t.Context(), LockOptions{}))
	for n := range 4 {
		fs := randomFiles(uint64(n), 5)
		v.want[mustSave(t, r, fs).ID] = fs
	}
	oldest := slices.Sorted(maps.Keys(v.want))[0]
	if err := r.Forget(t.Context(), "orders-db", oldest); err != nil {
		t.Fatal(err)
	}
	delete(v.want, oldest)
	mustCollect(t, r, CollectOptions{})
	v.log = make([]byte, 0x3000)
	for i := range v.log {
		v.log[i] = byte(i * i >> 3)
	}
	l := r.Log("orders-db")
	for from := uint64(0); from < 0x3000; from += 0x800 {
		if err := l.Encoder().Put(t.Context(), 1, 0x1000+from, v.log[from:from+0x800], ExtentClock{Writer: v.st.Now()}, Fast); err != nil {
			t.Fatal(err)
		}
		if err := l.PutMark(t.Context(), Mark{Stream: 1, LSN: 0x1000 + from + 0x800, Writer: v.st.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// wantAll reads everything.
func (v *vaulted) wantAll(t *testing.T, r *Repository) {
	t.Helper()
	defer r.Help(Helpers{})()
	var have []SnapshotID
	for _, s := range must(r.Snapshots(t.Context(), "orders-db")) {
		if have = append(have, s.ID); s.Err != nil {
			t.Fatalf("snapshot %s: %v", s.ID, s.Err)
		}
		wantFiles(t, r, s.Manifest, v.want[s.ID])
	}
	if want := slices.Sorted(maps.Keys(v.want)); !slices.Equal(have, want) {
		t.Errorf("snapshots %v, want %v", have, want)
	}
	l := r.Log("orders-db")
	extents := must(l.Extents(t.Context(), 1, 0x1000))
	if got := Merge(extents); len(got) != 1 || got[0] != (Range{0x1000, 0x4000}) {
		t.Fatalf("the log has %x", got)
	}
	var log []byte
	for _, e := range extents {
		b, _, err := l.Reader().Read(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, b...)
	}
	if string(log) != string(v.log) {
		t.Error("the log has other bytes")
	}
	if m, ok, err := l.Mark(t.Context(), 1); err != nil || !ok || m.LSN != 0x4000 {
		t.Errorf("mark %+v, %v, %v", m, ok, err)
	}
}

func (v *vaulted) wantNoProblems(t *testing.T) {
	t.Helper()
	if report := must(v.open(t, v.st).Check(t.Context(), CheckOptions{ReadData: true})); len(report.Problems) > 0 {
		t.Errorf("problems: %+v", report.Problems)
	}
}

// healed lets a check find what a thief has done, and put it right.
func (v *vaulted) healed(t *testing.T, want []string) {
	t.Helper()
	r := v.open(t, v.st)
	var found []string
	for _, p := range must(r.Check(t.Context(), CheckOptions{})).Problems {
		found = append(found, p.Object)
	}
	for _, name := range want {
		if !slices.Contains(found, name) {
			t.Errorf("the check does not find %s", name)
		}
	}
	// What opens the index may come back first, and show the rest.
	for range 4 {
		must(r.Heal(t.Context(), nil, found)) // what an index object that is missing leads to comes back with that, later
		found = nil
		r = v.open(t, v.st)
		for _, p := range must(r.Check(t.Context(), CheckOptions{ReadData: true})).Problems {
			found = append(found, p.Object)
		}
		if len(found) == 0 {
			break
		}
	}
	v.wantNoProblems(t)
	v.wantAll(t, v.open(t, v.st))
}

func TestNothingToSayOfWhatHoldfastRemoves(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	v.wantNoProblems(t)
	v.wantAll(t, v.open(t, v.st))
}

// A thief puts other bytes over every object; some of the same length. Nobody who reads is fooled.
func TestOverwritten(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	var done []string
	for i, name := range v.st.Names() {
		if strings.HasPrefix(name, prefixIntents) {
			continue
		}
		b := must(v.st.Get(t.Context(), name, maxIndexObject))
		switch i % 3 {
		case 0:
			b[len(b)/2] ^= 1
		case 1:
			b = b[:len(b)/2]
		default:
			b = append(b, "more"...)
		}
		if err := v.st.Put(t.Context(), name, b); err != nil {
			t.Fatal(err)
		}
		done = append(done, name)
	}
	v.wantAll(t, v.open(t, v.st))
	v.healed(t, slices.DeleteFunc(done, func(name string) bool {
		// Marks that are lower, and what was removed, are of no use to anybody.
		return strings.HasPrefix(name, prefixLog) || strings.HasPrefix(name, prefixMarks) || name == lockedName
	}))
}

// A thief deletes what opens the repository, and what is found by a name that something else tells.
func TestHidden(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	names := v.st.Names()
	for i, name := range names {
		inTheMiddle := strings.HasPrefix(name, prefixLog) && strings.HasPrefix(names[i-1], prefixLog) && strings.HasPrefix(names[i+1], prefixLog)
		for _, p := range []string{markerName, prefixKeys, prefixEpochs, prefixPacks, prefixSigners, prefixSystems} {
			if strings.HasPrefix(name, p) || inTheMiddle {
				if err := v.st.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				break
			}
		}
	}
	v.wantAll(t, v.open(t, v.st))
	v.healed(t, []string{markerName})
}

// A thief deletes everything: it is there as of the moment before, and a check brings it back.
func TestEverythingIsDeleted(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	before := v.st.Now()
	names := v.st.Names()
	for _, name := range names {
		if err := v.st.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	then := v.open(t, store.AsOf(v.st, before))
	v.wantAll(t, then)
	if report := must(then.Check(t.Context(), CheckOptions{ReadData: true})); len(report.Problems) > 0 {
		t.Errorf("as of before: %+v", report.Problems)
	}
	if _, err := save(t.Context(), then, "orders-db", randomFiles(9, 1)); store.KindOf(err) != store.Denied {
		t.Errorf("a snapshot was taken in the past: %v", err)
	}
	if _, err := Open(t.Context(), store.AsOf(v.st, before.Add(-time.Hour)), seal.Credentials{Passphrase: passphrase}, testOptions(t)); err == nil {
		t.Error("there is a repository before it was made")
	}
	v.healed(t, []string{markerName})
}

// Everything that is current is renewed before less is left than was promised, and not more often.
func TestRenewLock(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	r := v.open(t, v.st)
	least := func() time.Duration {
		left := time.Duration(1 << 62)
		for _, name := range v.st.Names() {
			if !store.Unlocked(name) {
				left = min(left, v.st.Until(name).Sub(v.st.Now()))
			}
		}
		return left
	}
	objects := len(v.st.Names())
	rounds := 0
	const days = 100
	for day := range days {
		v.st.Pass(24 * time.Hour)
		report := must(r.RenewLock(t.Context(), LockOptions{}))
		if report.Due {
			rounds++
		}
		if left := least(); left < month {
			t.Fatalf("day %d: something is retained for %s only", day, left)
		}
	}
	if want := days/14 + 1; rounds > want || v.st.Retained() > (objects+1)*want {
		t.Errorf("%d renewals with %d requests of %d objects in %d days, want at most %d", rounds, v.st.Retained(), objects, days, want)
	}
	v.wantNoProblems(t)
	// What a thief puts over an object is not what is renewed.
	name := markerName
	good := v.st.Until(name)
	if err := v.st.Put(t.Context(), name, []byte("his")); err != nil {
		t.Fatal(err)
	}
	v.st.Pass(time.Hour)
	his := v.st.Until(name)
	must(r.RenewLock(t.Context(), LockOptions{Now: true}))
	if v.st.Until(name) != his {
		t.Errorf("a thief's version was renewed: from %s to %s, was %s", his, v.st.Until(name), good)
	}
}

// A renewal that dies goes on where it was, at whatever request.
func TestRenewLockGoesOn(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	v.st.Pass(20 * 24 * time.Hour)
	for i := range 20 {
		ctx, stop := context.WithCancel(t.Context())
		d := &dying{Versioned: v.st, stop: stop}
		d.left.Store(int64(i))
		r := v.open(t, d)
		report, err := r.RenewLock(ctx, LockOptions{})
		stop()
		if err == nil {
			t.Fatalf("round %d was not interrupted: %+v", i, report)
		}
	}
	must(v.open(t, v.st).RenewLock(t.Context(), LockOptions{}))
	for _, name := range v.st.Names() {
		if left := v.st.Until(name).Sub(v.st.Now()); left < month {
			t.Errorf("%s is retained for %s", name, left)
		}
	}
}

// dying ends its user after some retentions.
type dying struct {
	*storetest.Versioned
	left atomic.Int64
	stop func()
}

func (d *dying) Vault() store.Vault { return dyingVault{d.Versioned.Vault(), d} }

type dyingVault struct {
	store.Vault
	d *dying
}

func (v dyingVault) Retain(ctx context.Context, x store.Version, until time.Time) error {
	if v.d.left.Add(-1) < 0 {
		v.d.stop()
		return &store.Error{Op: "retain", Name: x.Name, Kind: store.Busy, Err: context.Canceled}
	}
	return v.Vault.Retain(ctx, x, until)
}
