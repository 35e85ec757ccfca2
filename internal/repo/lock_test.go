package repo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// A round that was interrupted goes on although objects came meanwhile that are retained for longer than it has in mind; also those of a
// host whose clock is ahead, and which nobody could shorten.
func TestRenewLockBesideWriters(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	v.st.Pass(20 * 24 * time.Hour)
	ctx, stop := context.WithCancel(t.Context())
	d := &dying{Versioned: v.st, stop: stop}
	d.left.Store(5)
	r := v.open(t, d)
	l := must(r.readLocked(t.Context()))
	l.Round = &lockRound{Until: v.st.Now().Add(LockFor(month))}
	if err := r.putLocked(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RenewLock(ctx, LockOptions{}); err == nil {
		t.Fatal("the round was not interrupted")
	}
	v.st.Pass(2 * 24 * time.Hour)
	fs := randomFiles(77, 5)
	w := v.open(t, v.st)
	m := mustSave(t, w, fs)
	v.want[m.ID] = fs
	// One object is retained for longer than anybody asks for.
	var ahead string
	for _, name := range v.st.Names() {
		if _, _, ok := parsePackName(name); ok {
			ahead = name
		}
	}
	vault := v.st.Vault()
	all := must(store.VersionsOf(t.Context(), vault, ahead))
	far := v.st.Now().Add(3 * LockFor(month))
	if err := vault.Retain(t.Context(), all[0], far); err != nil {
		t.Fatal(err)
	}
	report, err := v.open(t, v.st).RenewLock(t.Context(), LockOptions{})
	if err != nil || !report.Due {
		t.Fatalf("%+v, %v", report, err)
	}
	if got := v.st.Until(ahead); !got.Equal(far) {
		t.Errorf("%s is retained until %s, was %s", ahead, got, far)
	}
	for _, name := range v.st.Names() {
		if left := v.st.Until(name).Sub(v.st.Now()); left < month {
			t.Errorf("%s is retained for %s", name, left)
		}
	}
	v.wantAll(t, v.open(t, v.st))
}

// unversioned is a bucket of a server that knows of no versions.
type unversioned struct{ *storetest.Memory }

func (u unversioned) Vault() store.Vault { return noVersions{} }

type noVersions struct{ store.Vault }

func (noVersions) Versions(context.Context, string, string, func(store.Version) error) error {
	return &store.Error{Op: "versions", Kind: store.Other, Err: errors.New("501 NotImplemented")}
}

// A check ends without them, says so, and finds what is missing; where a lock is configured that is an error.
func TestCheckWithoutVersions(t *testing.T) {
	t.Parallel()
	st := unversioned{storetest.NewMemory()}
	r, err := Init(t.Context(), st, []seal.Recipient{testRecipient(t)}, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	mustSave(t, r, randomFiles(1, 3))
	report := must(r.Check(t.Context(), CheckOptions{}))
	if len(report.Problems) > 0 || !strings.Contains(strings.Join(report.Notes, " "), "earlier versions were not looked at") {
		t.Errorf("%+v", report)
	}
	for _, name := range st.Names() {
		if _, _, ok := parsePackName(name); ok {
			if err := st.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if report := must(r.Check(t.Context(), CheckOptions{})); len(report.Problems) == 0 {
		t.Error("missing packs are no problem")
	}
	r.opts.Lock = month
	if _, err := r.Check(t.Context(), CheckOptions{}); err == nil {
		t.Error("a lock of which nothing can be asked is no error")
	}
}

// What we write is what we read, whatever was read instead of a thief's version before.
func TestPinnedAndWritten(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	r := v.open(t, v.st)
	before := must(r.readLocked(t.Context()))
	if err := v.st.Put(t.Context(), lockedName, []byte("his")); err != nil {
		t.Fatal(err)
	}
	must(r.readLocked(t.Context()))
	before.Until = before.Until.Add(time.Hour)
	if err := r.putLocked(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	if got := must(r.readLocked(t.Context())); !got.Until.Equal(before.Until) {
		t.Errorf("%s is read, and %s was written", got.Until, before.Until)
	}
}

// Where less is asked for than at the last renewal, where that was done by a clock that was ahead, or in another mode, what is there is
// renewed in time; so it is where it is demanded while a round was interrupted.
func TestRenewLockAfterChanges(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		before func(*Options)
		days   int
	}{
		"lowered": {func(o *Options) { o.Lock = 3 * month }, 60},
		"ahead":   {func(o *Options) { now := o.Now; o.Now = func() time.Time { return now().Add(200 * 24 * time.Hour) } }, 60},
		"mode":    {func(o *Options) { o.LockMode = store.Governance }, 1},
	} {
		v := newVaulted(t)
		r := v.open(t, v.st)
		r.opts.Lock = month
		now := r.opts
		c.before(&r.opts)
		if report := must(r.RenewLock(t.Context(), LockOptions{Now: true})); !report.Due {
			t.Fatal(what)
		}
		r.opts = now
		r.opts.LockMode = store.Compliance
		if what != "mode" {
			r.opts.LockMode = ""
		}
		fs := randomFiles(50, 3)
		v.want[mustSave(t, r, fs).ID] = fs
		rounds := 0
		for day := range c.days {
			v.st.Pass(24 * time.Hour)
			if must(r.RenewLock(t.Context(), LockOptions{})).Due {
				rounds++
			}
			for _, name := range v.st.Names() {
				if left := v.st.Until(name).Sub(v.st.Now()); left < month {
					t.Fatalf("%s, day %d: %s is retained for %s", what, day, name, left)
				}
			}
		}
		if rounds == 0 || rounds > c.days/13+1 {
			t.Errorf("%s: %d rounds in %d days", what, rounds, c.days)
		}
	}
}

func TestRenewLockNowIsNoResumption(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	r := v.open(t, v.st)
	l := must(r.readLocked(t.Context()))
	l.Round = &lockRound{Begun: v.st.Now(), Until: v.st.Now().Add(LockFor(month)), After: "packs/"}
	if err := r.putLocked(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	v.st.Pass(24 * time.Hour)
	must(r.RenewLock(t.Context(), LockOptions{Now: true}))
	if left := v.st.Until(markerName).Sub(v.st.Now()); left < LockFor(month)-time.Hour {
		t.Errorf("the marker is retained for %s", left)
	}
}

// What a thief has hidden of what nothing removes is renewed, and told of, although all that is read is right.
func TestRenewLockOfWhatIsHidden(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	var hidden []string
	for _, name := range v.st.Names() {
		for _, p := range []string{markerName, prefixKeys, prefixEpochs, prefixSystems, prefixSigners} {
			if strings.HasPrefix(name, p) {
				if err := v.st.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				hidden = append(hidden, name)
			}
		}
	}
	v.st.Pass(20 * 24 * time.Hour)
	report := must(v.open(t, v.st).RenewLock(t.Context(), LockOptions{}))
	if !slices.Equal(report.Hidden, hidden) || len(hidden) < 5 || len(report.Doubted) > 0 {
		t.Errorf("%q are said to be hidden, and %q doubted, want %q", report.Hidden, report.Doubted, hidden)
	}
	for _, name := range hidden {
		if left := v.st.Until(name).Sub(v.st.Now()); left < month {
			t.Errorf("%s is retained for %s", name, left)
		}
	}
}

// A process that knows of no lock forgets as one that does.
func TestForgetWithoutLock(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	r := v.open(t, v.st)
	r.opts.Lock = 0
	for id := range v.want {
		if err := r.Forget(t.Context(), "orders-db", id); err != nil {
			t.Fatal(err)
		}
		delete(v.want, id)
		break
	}
	v.wantNoProblems(t)
}
