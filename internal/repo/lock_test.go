package repo

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
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
