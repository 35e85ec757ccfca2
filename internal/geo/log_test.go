package geo_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// newLog returns a log in a repository of its own, and what puts extents into it.
func newLog(t *testing.T) (*repo.Repository, *repo.Log, func(s repo.StreamID, from, to uint64)) {
	r := repotest.Init(t, storetest.NewMemory(), repo.Options{})
	l := r.Log("db")
	if err := l.Register(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	return r, l, func(s repo.StreamID, from, to uint64) {
		t.Helper()
		if err := l.Encoder().Put(t.Context(), s, from, make([]byte, to-from), repo.ExtentClock{Writer: time.Now()}, repo.Fast); err != nil {
			t.Fatal(err)
		}
	}
}

// A log ends before its first hole behind what the mark promises: what lies beyond may be of a site that has lost something.
func TestLogEnd(t *testing.T) {
	r, l, put := newLog(t)
	end := func(what string, stream repo.StreamID, want uint64) {
		t.Helper()
		s, got, err := geo.LogEnd(t.Context(), l)
		if err != nil || s != stream || got != want {
			t.Errorf("%s: stream %d ends at %x, want %d and %x; %v", what, s, got, stream, want, err)
		}
	}
	end("there is none", 0, 0)
	put(1, 0x1000, 0x2000)
	end("without a mark", 1, 0x2000)
	if err := l.PutMark(t.Context(), repo.Mark{Stream: 1, LSN: 0x2000, Writer: time.Now()}); err != nil {
		t.Fatal(err)
	}
	put(1, 0x3000, 0x4000)
	end("a hole behind the mark", 1, 0x2000)
	put(1, 0x2000, 0x3000)
	end("the hole is filled", 1, 0x4000)
	for _, name := range r.Store().(*storetest.Memory).Names() {
		if strings.HasPrefix(name, "log/") && !strings.Contains(name, "00003000-") {
			if err := r.Store().Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	end("what the mark promises is lost", 1, 0)
	put(2, 0x5000, 0x6000)
	end("another timeline", 2, 0x6000)
}

// A copy of a log brings timelines that have begun, their histories, and what is known of gaps.
func TestCopyLogBringsAllOfIt(t *testing.T) {
	r, l, put := newLog(t)
	put(1, 0x1000, 0x2000)
	st := storetest.NewMemory()
	if err := r.CopyKeys(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	other, err := r.Beside(t.Context(), st, repo.Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	o := geo.Options{Floors: func(context.Context, []*repo.Manifest) (map[repo.StreamID]uint64, error) { return nil, nil }}
	if _, err := geo.CopyLog(t.Context(), r, other, "db", o); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"00000002.history", "gap-1.json"} {
		if err := l.PutFile(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	put(2, 0x2000, 0x3000)
	ends, err := geo.CopyLog(t.Context(), r, other, "db", o)
	if err != nil || ends[1] != 0x2000 || ends[2] != 0x3000 {
		t.Errorf("it ends at %v, %v", ends, err)
	}
	if files, err := other.Log("db").Files(t.Context()); err != nil || len(files) != 2 {
		t.Errorf("files: %v, %v", files, err)
	}
}
