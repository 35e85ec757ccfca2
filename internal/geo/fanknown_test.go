package geo_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// What is known of a site is what it has acknowledged, and nothing while it is behind.
func TestFanTellsWhoHasTheLog(t *testing.T) {
	known := repo.NewHolders()
	w := newFan(t, 2, geo.FanOptions{Sync: 1, Free: []string{"log/"}, Known: known, Replica: "A"})
	put := func(start, end int) {
		t.Helper()
		if err := w.fan.Put(t.Context(), fmt.Sprintf("log/x/00000001/%016x-%016x", start, end), []byte("log")); err != nil {
			t.Fatal(err)
		}
	}
	want := func(why string, a, b uint64) {
		t.Helper()
		all := []repo.Holder{{Site: "a", Replica: "A", Upto: a}}
		if b > 0 {
			all = append(all, repo.Holder{Site: "b", Replica: "B", Upto: b})
		}
		if d := cmp.Diff(all, known.Of(1)); d != "" {
			t.Errorf("%s: -want +got\n%s", why, d)
		}
	}
	join := func(ends geo.Ends, pass func() error) error {
		j := geo.Joining{Site: "b", Replica: "B", Ends: ends, Store: w.sites["b"], Close: func() {}}
		return w.fan.Join(t.Context(), j, "a", func(context.Context) error { return pass() })
	}
	known.Begin(1, 100)
	put(100, 110)
	want("b is behind", 110, 0)
	if err := join(geo.Ends{1: 90}, func() error { return errDown }); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	want("b could not join", 110, 0)
	err := join(geo.Ends{1: 90}, func() error {
		put(110, 120)
		w.fan.Has(t.Context(), "a")
		want("b joins, and lacks what was before", 120, 90)
		return nil
	})
	if err != nil || !w.fan.Has(t.Context(), "b") {
		t.Fatal(err)
	}
	want("b has joined", 120, 120)
	hangs, before := make(chan struct{}), w.sites["b"].calls.Load()
	w.sites["b"].set(nil, hangs)
	put(120, 130)
	w.sites["b"].reached(t, before+1)
	w.sites["b"].set(nil, nil)
	put(130, 140)
	want("what came to b before something else", 140, 120)
	close(hangs)
	if !w.fan.Has(t.Context(), "b") {
		t.Fatal("b is behind")
	}
	want("that came too", 140, 140)
	w.sites["b"].set(errDown, nil)
	put(140, 150)
	w.fan.Has(t.Context(), "b")
	want("b failed", 150, 0)
}
