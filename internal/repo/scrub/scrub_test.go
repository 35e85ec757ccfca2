package scrub

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/parity"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// Flips, cuts, swaps and removals in one site's replica are found within a window, and put back from the other site, whatever they
// struck; and what is read is what the budget allows, by bytes.
func TestDamageIsFoundWithinAWindow(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"directory", "S3"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			var bare store.Store
			if where == "S3" {
				bare = storetest.S3(t).Open(t, "")
			} else {
				bare = directory(t)
			}
			p := newPlace(t, bare, nil)
			other := p.copyTo(directory(t))
			c := newClock()
			s := p.open(c, t.TempDir(), Options{}, other)
			defer s.Close()
			run(t, s, c, 2*day) // in which everything is good
			half := s.Statement()
			if half.Found != 0 || half.Verified == 0 || half.Verified >= half.Bytes {
				t.Fatalf("after two days: %+v", half)
			}

			packs := p.names("packs/")
			damaged := []string{packs[0], packs[1], packs[2], packs[3], packs[4]}
			p.flip(packs[0])
			p.put(packs[1], p.get(packs[1])[:300])
			a, b := p.get(packs[2]), p.get(packs[3])
			p.put(packs[2], b)
			p.put(packs[3], a)
			p.remove(packs[4])
			for _, prefix := range []string{"log/", "snapshots/", "marks/", "logfiles/", "systems/"} {
				name := p.names(prefix)[0]
				p.flip(name)
				damaged = append(damaged, name)
			}
			began, received := c.t, p.meter.Read().Received
			run(t, s, c, 6*day)
			st := s.Statement()
			if st.Found != int64(len(damaged)) || st.Healed != st.Found || len(st.Left) > 0 || st.Damaged > 0 {
				t.Errorf("%d objects were damaged: %d found, %d put back, left %v", len(damaged), st.Found, st.Healed, leftNames(st))
			}
			for _, name := range damaged {
				if !slices.Contains(st.Repairs, name) {
					t.Errorf("%s was not put back: %v", name, st.Repairs)
				}
			}
			cleanCheck(t, p.repo)

			// What the clock has earned since, with what a pause may save, an object and a survey.
			if read := p.meter.Read().Received - received; st.Read-half.Read > read {
				t.Errorf("%d bytes were read, and it says %d", read, st.Read-half.Read)
			}
			earned := 0.25 * float64(st.Bytes) * c.t.Sub(began).Hours() / 24
			spent := float64(st.Read - half.Read)
			if most := earned*1.02 + 100<<10 + float64(s.l.cost); spent > most {
				t.Errorf("%.0f bytes were read in %s, of %d; the budget is %.0f", spent, c.t.Sub(began), st.Bytes, earned)
			}
		})
	}
}

// A lone site heals from its parity what was flipped, and small objects that were removed; and parity that has rotted is made again.
func TestParityHealsALoneSite(t *testing.T) {
	t.Parallel()
	p := newPlace(t, directory(t), func(st store.Store) store.Store { return parity.Wrap(st, 10) })
	view, err := p.repo.Beside(t.Context(), parity.Rebuild(p.repo.Store()), repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	rebuilt := &place{repo: view}
	packs, marks := p.names("packs/"), p.names("marks/")
	p.flip(packs[0])
	p.flip("parity/" + packs[1])
	p.remove("parity/" + packs[2])
	p.remove(marks[0])
	c := newClock()
	s := p.open(c, t.TempDir(), Options{}, rebuilt)
	defer s.Close()
	run(t, s, c, 5*day)
	st := s.Statement()
	if want := []string{marks[0], packs[0], "parity/" + packs[1]}; len(st.Left) > 0 || st.Found != 3 || st.Healed != 3 {
		t.Errorf("found %d, put back %v, left %v; want %v", st.Found, st.Repairs, leftNames(st), want)
	}
	cleanCheck(t, p.repo)
	if n, err := parity.Lacking(t.Context(), p.repo.Store()); err != nil || n > 0 {
		t.Errorf("%d objects have no parity: %v", n, err)
	}
}

// What nobody can put back is told, with what is to be done, until it is.
func TestWhatStaysDamagedIsTold(t *testing.T) {
	t.Parallel()
	p := newPlace(t, directory(t), nil)
	c, dir := newClock(), t.TempDir()
	whole := p.get(p.names("packs/")[0])
	p.flip(p.names("packs/")[0])
	p.remove(p.names("packs/")[1])
	s := p.open(c, dir, Options{})
	run(t, s, c, 5*day)
	st := s.Statement()
	if got, want := leftNames(st), p.names("packs/")[0]; st.Found != 2 || st.Healed != 0 || len(got) != 2 || !slices.Contains(got, want) || st.Damaged == 0 {
		t.Errorf("found %d, healed %d, left %v", st.Found, st.Healed, got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	told, err := Read(dir, p.repo.Store().String(), 6*day, c.t)
	if err != nil || len(told.Left) != 2 || told.Damaged != st.Damaged {
		t.Errorf("the file says %+v, %v", told, err)
	}
	// Another process reads what is damaged before all else.
	p.put(p.names("packs/")[0], whole)
	s = p.open(c, dir, Options{})
	defer s.Close()
	if got := leftNames(s.Statement()); len(got) != 2 {
		t.Errorf("after a restart %v are left", got)
	}
	run(t, s, c, 12*time.Hour)
	if st := s.Statement(); st.Damaged != 0 || len(st.Left) != 1 {
		t.Errorf("it is as it was again, and still counts as damaged: %+v", st)
	}
}

// What the store does not give is no damage: it stays unread, and is told when it goes on.
func TestErrorsOfTheStoreAreNoDamage(t *testing.T) {
	t.Parallel()
	memory := storetest.NewMemory()
	f := storetest.NewFaulty(memory)
	p := newPlace(t, f, nil)
	c := newClock()
	s := p.open(c, t.TempDir(), Options{})
	defer s.Close()
	run(t, s, c, day)
	before := s.Statement()
	for _, kind := range []store.Kind{store.Busy, store.Denied, store.Other} {
		f.SetFaults(storetest.Fault{Op: "get", When: storetest.Before, Kind: kind, Match: func(name string) bool { return name != "holdfast.json" }})
		c.end = c.t.Add(day)
		if err := s.Run(t.Context()); !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("kind %d: %v", kind, err)
		}
		s.Failed(storetest.ErrInjected)
		if st := s.Statement(); st.Found > 0 || len(st.Left) > 0 || st.Error == "" || st.Failing.IsZero() || st.Verified > before.Verified {
			t.Errorf("kind %d: %+v", kind, st)
		}
	}
	f.SetFaults()
	run(t, s, c, 6*day)
	if st := s.Statement(); st.Found > 0 || st.Error != "" || st.Share() < 0.95 {
		t.Errorf("after the store is back: %+v", st)
	}
}

// Snapshots are forgotten, collected and taken in the middle: nothing is called damaged, and the ledger has what is there.
func TestACollectionInBetween(t *testing.T) {
	t.Parallel()
	p := newPlace(t, storetest.NewMemory(), nil)
	c, dir := newClock(), t.TempDir()
	s := p.open(c, dir, Options{})
	n, last := 10, time.Time{}
	c.then = func(now time.Time) {
		if now.Sub(last) < 7*time.Hour {
			return
		}
		last = now
		list, err := p.repo.Snapshots(t.Context(), "db")
		if err != nil {
			t.Fatal(err)
		}
		p.snapshot(n)
		n++
		if err := p.repo.Forget(t.Context(), "db", list[0].ID); err != nil {
			t.Fatal(err)
		}
		if _, err := p.repo.Collect(t.Context(), repo.CollectOptions{MinLive: 0.9}); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 { // and it is stopped and started
		run(t, s, c, 12*time.Hour)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = p.open(c, dir, Options{})
	}
	defer s.Close()
	c.then = nil
	run(t, s, c, 5*day)
	st := s.Statement()
	if st.Found > 0 || len(st.Left) > 0 || st.Bytes != p.bytes() || st.Overdue > 0 {
		t.Errorf("%+v; there are %d bytes", st, p.bytes())
	}
}

// Of two agents one reads; when it is gone for a while the other does.
func TestTwoAgents(t *testing.T) {
	t.Parallel()
	bare := directory(t)
	p := newPlace(t, bare, nil)
	second := p.twin()
	c := newClock()
	o := Options{Claim: true}
	one, two := p.open(c, t.TempDir(), o), second.open(c, t.TempDir(), o)
	defer one.Close()
	defer two.Close()
	for range 24 {
		run(t, one, c, time.Hour)
		run(t, two, c, time.Minute)
	}
	a, b := one.Statement(), two.Statement()
	if a.Read == 0 || b.Read > 0 || a.By != "" {
		t.Errorf("the first has read %d bytes, the second %d, and is told to be by %q", a.Read, b.Read, b.By)
	}
	run(t, two, c, 2*time.Hour)
	if b := two.Statement(); b.Read > 0 {
		t.Errorf("the second does not wait: %d bytes", b.Read)
	}
	run(t, two, c, 5*time.Hour)
	if b := two.Statement(); b.Read == 0 || b.By != "" {
		t.Errorf("the first is gone, and the second reads nothing: %+v", b)
	}
	read := one.Statement().Read
	run(t, one, c, 2*time.Hour)
	if a := one.Statement(); a.Read != read {
		t.Errorf("the first goes on beside the second: %+v", a)
	}
}

// One process of a host at a time keeps a ledger.
func TestOneProcessOfAHost(t *testing.T) {
	t.Parallel()
	p := newPlace(t, storetest.NewMemory(), nil)
	c, dir := newClock(), t.TempDir()
	s := p.open(c, dir, Options{})
	if _, err := Open(p.repo, Options{Dir: dir, Meter: p.meter}); !errors.Is(err, ErrBusy) || !strings.Contains(dr.Advice(err), "--status") {
		t.Errorf("a second one: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = p.open(c, dir, Options{})
	defer s.Close()
}

// A day's budget is spent at once, and half a day later another.
func TestOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t, storetest.NewMemory(), nil)
	c, dir := newClock(), t.TempDir()
	share := 0.0
	for i := range 12 {
		s := p.open(c, dir, Options{Once: true})
		c.end = c.t // waiting is an error
		if err := s.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := s.Statement()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if st.Share() < share || st.Read == 0 || i == 0 && (st.Share() < 0.1 || st.Share() > 0.6) {
			t.Errorf("run %d: %.3f after %.3f, %d bytes", i, st.Share(), share, st.Read)
		}
		share = st.Share()
		c.t = c.t.Add(12 * time.Hour)
	}
	if share < 0.99 {
		t.Errorf("in the end %.3f are read", share)
	}
	s := p.open(c, dir, Options{Once: true, Pace: dr.Daily(2)})
	defer s.Close()
	if err := s.Run(t.Context()); err != nil || s.Statement().Share() != 1 {
		t.Errorf("everything at once: %+v, %v", s.Statement(), err)
	}
}

// A ledger that is cut anywhere, or has lost a bit, never says that something was read later than it was.
func TestALedgerIsNeverTooGood(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, ledgerName)
	l, err := openLedger(path, "a place", time.Unix(1000, 0))
	if err != nil {
		t.Fatal(err)
	}
	truth := map[key]uint32{}
	for i := range uint32(200) {
		k := keyOf(string(rune('a' + i%20)))
		l.set(k, record{size: 10, seen: 5, read: 1000 + i})
		truth[k] = 1000 + i
		if i%7 == 0 {
			if err := l.save(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for n := range 400 {
		b := slices.Clone(whole)
		if at := rnd.IntN(len(b)); n%2 == 0 {
			b = b[:at]
		} else {
			b[at] ^= 1 << rnd.IntN(8)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := openLedger(path, "a place", time.Unix(1000, 0))
		if err != nil {
			t.Fatal(err)
		}
		for k, x := range l.objects {
			if x.read > truth[k] || x.read < 1000 {
				t.Fatalf("%x was read at %d, and the ledger says %d", k, truth[k], x.read)
			}
		}
		l.set(keyOf("new"), record{size: 1, read: 5000})
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		if l, err = readLedger(path, "a place"); err != nil || l.objects[keyOf("new")].read != 5000 {
			t.Fatalf("what is noted after that is lost: %v", err)
		}
	}
	if l, err := openLedger(path, "another place", time.Unix(2000, 0)); err != nil || len(l.objects) != 0 {
		t.Errorf("of another place %d objects count, %v", len(l.objects), err)
	} else {
		l.close()
	}
}

// A ledger that grows is written anew, and says the same.
func TestALedgerStaysSmall(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), ledgerName)
	l, err := openLedger(path, "a place", time.Unix(1000, 0))
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(50_000) {
		l.set(keyOf(string(rune('a'+i%500))), record{size: 10, seen: 5, read: i + 1, damaged: i%500 == 3})
		if i%1000 == 0 {
			if err := l.save(); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.balance = -12345
	want := l.objects
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Size() > 10_000*recordSize {
		t.Errorf("it has %d bytes, %v", fi.Size(), err)
	}
	l, err = openLedger(path, "a place", time.Unix(3000, 0))
	if err != nil || len(l.objects) != len(want) || l.balance != -12345 || l.began.Unix() != 1000 {
		t.Fatalf("%d objects, %v, begun %s, %v", len(l.objects), l.balance, l.began, err)
	}
	defer l.close()
	for k, x := range want {
		if l.objects[k] != x {
			t.Errorf("%x: %+v, want %+v", k, l.objects[k], x)
		}
	}
}
