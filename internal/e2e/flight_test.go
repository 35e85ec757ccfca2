package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// partsOfLog returns the names of the parts of the log at a site's server, ascending.
func partsOfLog(t *testing.T, st store.Store) (names []string) {
	t.Helper()
	if err := st.List(t.Context(), "log/", "", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// overtaken holds a part of the log back on its way to a provider until others have come behind it, and returns its name.
func (w *world) overtaken(p *storetest.Provider, there store.Store) string {
	w.t.Helper()
	for range 10 {
		// Deletions and marks wait for what is on its way, and what follows for them: then another part is held.
		var from, to string
		held, release := p.Hold(func(name string) bool {
			start, end := bounds(name)
			if from == "" && strings.HasPrefix(name, "hf/log/") {
				from, to = start, end
			}
			return strings.HasPrefix(name, "hf/log/") && start <= from && end >= to // what takes its place, too
		})
		name := strings.TrimPrefix(<-held, "hf/")
		late := time.After(5 * time.Second)
		for waiting := true; waiting; {
			names := partsOfLog(w.t, there)
			if len(names) > 1 && names[len(names)-2] > name {
				return name
			}
			select {
			case <-late:
				waiting = false
			case <-time.After(50 * time.Millisecond):
			}
		}
		release()
	}
	w.t.Fatal("nothing overtakes anything")
	return ""
}

// bounds returns the positions that the name of a part of a log says.
func bounds(name string) (start, end string) {
	start, end, _ = strings.Cut(name[strings.LastIndex(name, "/")+1:], "-")
	return start, end
}

// TestWhatWasInFlightIsNoLoss loses the region with server, agent and first site while a part of the log has not come to the other one,
// and later ones have. A restore ends where it is missing, and tells what came behind it; where a part is gone that was there it refuses.
func TestWhatWasInFlightIsNoLoss(t *testing.T) {
	t.Parallel()
	s3, w := s3World(t)
	provider := storetest.NewProvider(t, s3)
	w.configure(setup{other: s3URL(s3, provider.Endpoint)})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable)
	w.members(agent, 2)
	w.until("the first snapshot is there", func() bool { return w.statuses()["there"].Problem == "" })
	first := fmt.Sprintf("%016x", position(t, w.server.Query("", "SELECT pg_current_wal_flush_lsn()")))
	l := startLedger(t, w.server, "flight")
	there := s3.Open(t, "hf")
	have := len(partsOfLog(t, there))
	w.until("there are commits at both sites", func() bool { return l.count() > 100 && len(partsOfLog(t, there)) > have+3 })
	missing := w.overtaken(provider, there)
	w.server.Kill9()
	agent.kill9()
	l.wg.Wait()
	disaster := time.Now()
	w.lose()
	names := partsOfLog(t, there)
	if slices.Contains(names, missing) || names[len(names)-1] < missing {
		t.Fatalf("%s is there, or nothing behind it: %q", missing, names)
	}
	start, end := bounds(missing)

	type flight struct {
		From, To string
		Bytes    int64
		Last     time.Time
		Held     []struct{ Site string }
	}
	out := w.run("restore", system, "--to", w.dir+"/back", "-o", "json", "--site", "there", "--start")
	f := decode[struct{ InFlight *flight }](t, out).InFlight
	r := decode[restored](t, out)
	r.w, r.dir = w, w.dir+"/back"
	if f == nil || fmt.Sprintf("%016x", position(t, f.From)) != end || f.Bytes <= 0 || f.Last.Before(disaster.Add(-time.Minute)) || len(f.Held) != 1 || f.Held[0].Site != "here" {
		t.Fatalf("in flight was %+v, want from %s on", f, end)
	}
	if r.Recovery.RPO <= 0 || r.Recovery.RPO > time.Minute || !strings.Contains(strings.Join(r.Notes, "\n"), `site "here" had acknowledged everything up to`) {
		t.Errorf("RPO %s, notes %q", r.Recovery.RPO, r.Notes)
	}
	gone := l.missing(t, &r, disaster)
	if len(gone) == len(l.commits) {
		t.Errorf("all %d commits are gone", len(gone))
	}
	for _, at := range l.lost(gone) {
		if disaster.Sub(at) > 30*time.Second {
			t.Errorf("a commit of %s before is gone", disaster.Sub(at))
		}
	}
	t.Logf("of %d commits %d are gone, RPO %s: %s", len(l.commits), len(gone), r.Recovery.RPO, r.Notes)
	r.stop()
	if out := w.run("recovery-points", system, "--site", "there"); !strings.Contains(out, "the rest was in flight") {
		t.Errorf("recovery-points says %s", out)
	}

	// Log that had come long before, and is gone: what follows tells of it.
	gap := slices.IndexFunc(names, func(n string) bool { at, _ := bounds(n); return at >= first })
	from, to := bounds(names[gap])
	if to > start {
		t.Fatalf("between %s and %s nothing was stored: %q", first, start, names)
	}
	for _, n := range names {
		if at, end := bounds(n); at < to && end > from {
			if err := there.Delete(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
	}
	hole := w.try("restore", system, "--to", w.dir+"/again", "--site", "there", "--start")
	if hole.code == 0 || !strings.Contains(hole.stderr, "the log has a gap") ||
		!strings.Contains(hole.stderr, "this replica had everything up to") && !strings.Contains(hole.stderr, "the high-water mark says that it was stored up to") {
		t.Errorf("with a hole restore ends with %d: %s", hole.code, hole.stderr)
	}
}
