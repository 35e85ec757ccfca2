package standby

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// A promotion ends where the log was still on its way when the region was lost, and not before log that was there.
func TestWhatWasInFlightIsNotMissing(t *testing.T) {
	t.Parallel()
	w := newStillWorld(t)
	replica, err := w.repo.Replica(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	known := repo.NewHolders()
	known.Join("there", replica, map[repo.StreamID]uint64{1: begin + 5000})
	w.log.Tell(known, "")
	look := func() (string, string) {
		t.Helper()
		v, err := w.tail.freezeAtEnd(t.Context())
		if err != nil || v.End != begin+5000 || v.Next != begin+9000 {
			t.Fatalf("from %s to %s: %v", v.End, v.Next, err)
		}
		missing, note, err := w.tail.missing(t.Context(), v)
		if err != nil {
			t.Fatal(err)
		}
		return missing, note
	}
	w.put(1, 0, 5000)
	w.put(1, 9000, 12000)
	if missing, note := look(); missing != "" || !strings.Contains(note, "the log ends at "+wal.LSN(begin+5000).String()) {
		t.Errorf("in flight: %q is missing; note %q", missing, note)
	}
	if err := w.log.Register(t.Context(), repo.DefaultGroup); err != nil {
		t.Fatal(err)
	}
	known.Raise("there", map[repo.StreamID]uint64{1: begin + 9000})
	w.put(1, 12000, 13000)
	if missing, note := look(); !strings.Contains(missing, "this replica had everything up to") || note != "" {
		t.Errorf("a hole: %q is missing; note %q", missing, note)
	}
	w.mark(1, 9000)
	if missing, note := look(); !strings.Contains(missing, "high-water mark says") || note != "" {
		t.Errorf("by the mark: %q is missing; note %q", missing, note)
	}
}
