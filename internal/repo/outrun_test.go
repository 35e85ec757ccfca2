package repo

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// A collector is about to end a collection, and slow; another one prepares a repair, since it cannot know whether the end was
// lost. The first one ends the collection after all, with what an aborted writer has named late, which the repair has not
// seen. A snapshot shares that, and only then the repair is published: it must not take away what the snapshot needs.
func TestRepairThatIsPublishedAfterTheEnd(t *testing.T) {
	for name, further := range map[string]func(t *testing.T, st *storetest.Memory){
		"published": func(*testing.T, *storetest.Memory) {},
		"ended": func(t *testing.T, st *storetest.Memory) {
			mustCollect(t, must(openAgain(t, st)), CollectOptions{Patience: NoPatience})
		},
		"repaired once more": func(t *testing.T, st *storetest.Memory) {
			c := must(must(openAgain(t, st)).collector(t.Context(), CollectOptions{}))
			if err := c.create(t.Context(), endingName(2), struct{}{}); err != nil {
				t.Fatal(err)
			}
			mustCollect(t, c.r, CollectOptions{Patience: NoPatience})
			if n := must2(c.r.numbers(t.Context())); n < 3 {
				t.Fatalf("the scene was not played: %d", n)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := storetest.NewMemory()
			m, want := publishedAfterTheEnd(t, st)
			further(t, st)
			wantFiles(t, must(openAgain(t, st)), m, want)
			for range 2 {
				mustCollect(t, must(openAgain(t, st)), CollectOptions{Patience: NoPatience})
			}
			wantFiles(t, must(openAgain(t, st)), m, want)
			wantClean(t, st)
		})
	}
}

func must2[A, B, C any](a A, _ B, _ C, err error) A { return must(a, err) }

func publishedAfterTheEnd(t *testing.T, st *storetest.Memory) (*Manifest, files) {
	t.Helper()
	r := newRepository(t, st)
	want := littleFiles(1, nil)
	gone := mustSave(t, r, littleFiles(2, nil))
	mustSave(t, r, littleFiles(3, nil))
	if err := r.Forget(t.Context(), "orders-db", gone.ID); err != nil {
		t.Fatal(err)
	}
	aborted := must(must(openAgain(t, st)).Begin(t.Context(), "orders-db", DefaultGroup))
	slow := must(must(openAgain(t, st)).collector(t.Context(), CollectOptions{Patience: NoPatience}))
	p := must(slow.prepare(t.Context()))
	err := slow.publish(t.Context(), p)
	if err == nil {
		_, err = slow.await(t.Context(), must(slow.waitsOf(t.Context(), p.Number)))
	}
	if err == nil {
		err = slow.create(t.Context(), endingName(p.Number), struct{}{})
	}
	if err != nil {
		t.Fatal(err)
	}
	repairs := must(must(openAgain(t, st)).collector(t.Context(), CollectOptions{}))
	next := must(repairs.replacement(t.Context(), p.Number))

	flushed(t, aborted, want)
	if err := aborted.writeIndex(t.Context(), &aborted.pending); err != nil {
		t.Fatal(err)
	}
	must(slow.end(t.Context(), p))
	m := mustSave(t, must(openAgain(t, st)), want)
	if m.Written.NewChunks > m.Written.Chunks/2 {
		t.Fatalf("the scene was not played: %+v", m.Written)
	}
	if won, err := repairs.publishOrDiscard(t.Context(), next); !won || err != nil {
		t.Fatalf("the repair is not published: %v, %v", won, err)
	}
	return m, want
}
