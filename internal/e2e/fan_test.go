package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stoodBy is what /status says of the sites at which the log is written.
type stoodBy struct {
	Short  time.Time
	GaveUp bool
	Sites  []struct {
		Site   string
		Member bool
	}
}

// copies asks an agent.
func (w *world) copies(agent *process) (c stoodBy, healthy bool) {
	w.t.Helper()
	_, address, ok := strings.Cut(agent.said(), "listen=")
	if !ok {
		return c, false
	}
	client := http.DefaultClient
	if w.place != nil {
		client = &http.Client{Transport: &http.Transport{DialContext: w.place.Dial, DisableKeepAlives: true}}
	}
	r, err := client.Get("http://" + strings.Fields(address)[0] + "/status") //nolint:noctx // a test
	if err != nil {
		return c, false
	}
	defer r.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return c, false
	}
	type status struct {
		Systems []struct {
			Healthy bool
			Stream  struct{ Copies stoodBy }
		}
	}
	s := decode[status](w.t, string(b)).Systems[0]
	return s.Stream.Copies, s.Healthy
}

// members waits until the log is written at exactly so many sites.
func (w *world) members(agent *process, n int) {
	w.t.Helper()
	w.until(fmt.Sprintf("the log is written at %d sites", n), func() bool {
		c, _ := w.copies(agent)
		have := 0
		for _, s := range c.Sites {
			if s.Member {
				have++
			}
		}
		return have == n
	})
}

// lose removes the server, what the agent knows, and the first site.
func (w *world) lose() {
	w.t.Helper()
	for _, gone := range []string{w.server.DataDir, filepath.Join(w.dir, "repository"), filepath.Join(w.dir, "cache"), filepath.Join(w.dir, "state")} {
		if err := os.RemoveAll(gone); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestTwoSitesHoldEveryCommit makes commits wait for two sites, and loses one of them with the server: nothing is lost.
func TestTwoSitesHoldEveryCommit(t *testing.T) {
	t.Parallel()
	chance := random(t)
	s3, w := s3World(t)
	w.configure(setup{other: s3URL(s3, s3.Endpoint), copies: "{sync: 2, min: 2, patience: 2s}"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable)
	w.members(agent, 2) // the agent takes the first snapshot by itself, and copies it
	w.synchronous()
	l := startLedger(t, w.server, "both")
	pause(2*time.Second + time.Duration(chance.Int64N(int64(time.Second))))

	// A site that is away for longer than the patience is an alarm, and commits go on.
	s3.Kill()
	w.until("fewer sites suffice", func() bool { c, healthy := w.copies(agent); return c.GaveUp && !healthy })
	before := l.count()
	w.until("commits go on", func() bool { return l.count() > before+20 })
	s3.Start(t)
	w.members(agent, 2)
	w.until("there is no alarm", func() bool { c, healthy := w.copies(agent); return !c.GaveUp && c.Short.IsZero() && healthy })
	pause(time.Second + time.Duration(chance.Int64N(int64(time.Second))))
	w.server.Kill9()
	agent.kill9()
	l.wg.Wait()
	w.lose()
	r := w.restore("back", "--site", "there", "--start")
	if m := l.missing(t, r, time.Now()); len(m) > 0 {
		t.Errorf("of %d acknowledged commits %d are gone: %.2000q", len(l.commits), len(m), m)
	}
	t.Logf("%d commits were acknowledged", len(l.commits))
	r.stop()
	w.run("repo", "check", "--site", "there", "--read-data")
}

// TestCaptureGoesOnWithoutTheFirstSite takes the first site away in a load: the log goes on at the other, also over a restart of
// the agent, and the first site gets what it lacks when it is back.
func TestCaptureGoesOnWithoutTheFirstSite(t *testing.T) {
	t.Parallel()
	s3, w := s3World(t)
	w.configure(setup{url: s3URL(s3, s3.Endpoint), other: "file://" + w.dir + "/there/replica"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", ledgerTable)
	w.members(agent, 2)
	w.synchronous()
	l := startLedger(t, w.server, "one")
	w.until("there are commits", func() bool { return l.count() > 50 })
	s3.Kill()
	before := l.count()
	w.until("commits go on", func() bool { return l.count() > before+50 })
	agent.kill9()
	agent = w.agent()
	before = l.count()
	w.until("commits go on with another agent", func() bool { return l.count() > before+50 })
	s3.Start(t)
	w.members(agent, 2)
	before = l.count()
	w.until("commits go on at both", func() bool { return l.count() > before+50 })
	pause(time.Second)
	disaster := time.Now()
	w.server.Kill9()
	agent.kill9()
	l.wg.Wait()
	gone := map[string]int{}
	for _, site := range []string{"here", "there"} {
		r := w.restore("from-"+site, "--site", site, "--start")
		if m := l.missing(t, r, disaster.Add(-2*time.Second)); len(m) > 0 {
			t.Errorf("site %s: of %d commits, %d that were acknowledged more than 2 s before are gone: %.1000q", site, len(l.commits), len(m), m)
		}
		for _, m := range l.missing(t, r, time.Now()) {
			gone[m]++
		}
		r.stop()
		w.run("repo", "check", "--site", site, "--read-data")
	}
	for m, n := range gone {
		if n == 2 {
			t.Errorf("no site has %s", m)
		}
	}
	t.Logf("of %d commits %d were at one site alone", len(l.commits), len(gone))
}
