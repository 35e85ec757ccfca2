package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/scrub"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// scrubbedSites is a system without a server at two sites, whose replicas have a log.
func scrubbedSites(t *testing.T) (c *config.Config, dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("passphrase", "correct horse battery staple and some more\n")
	c, err := config.Load(write("holdfast.yaml", fmt.Sprintf(`version: 1
sites: {here: {}, there: {}, unread: {}}
repositories:
  main:
    replicas:
      - {site: here, url: "file://%[1]s/here", scrub: {budget: 1GiB/s}}
      - {site: there, url: "file://%[1]s/there", scrub: {budget: 1GiB/s}}
      - {site: unread, url: "file://%[1]s/unread", scrub: {budget: off}}
    keys: {passphrase-file: %[1]s/passphrase}
    cache: %[1]s/cache
systems:
  a: {repository: main, postgres: {connection: "host=/nowhere"}}
  b: {repository: main, postgres: {connection: "host=/nowhere port=2"}}
agent: {state: %[1]s/state, listen: "127.0.0.1:0"}
`, dir)))
	if err != nil {
		t.Fatal(err)
	}
	w := workspace.New(c, slog.New(slog.DiscardHandler))
	defer w.Close()
	if _, _, err := w.Init(t.Context(), "main", nil); err != nil {
		t.Fatal(err)
	}
	s, err := w.System(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	log := s.Repo.Log("a")
	if err := log.Register(t.Context(), s.Group()); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(8) {
		if err := log.Encoder().Put(t.Context(), 1, i*1000, make([]byte, 1000), repo.ExtentClock{Writer: time.Unix(1, 0)}, repo.Fast); err != nil {
			t.Fatal(err)
		}
	}
	there, err := w.Replica(t.Context(), s, "there", "")
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if _, err := there.Copy(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return c, dir
}

// The agent reads each replica that has a budget once for all systems, while none of them does anything else, and puts back what is damaged; it
// tells of all that.
func TestTheAgentScrubs(t *testing.T) {
	t.Parallel()
	c, dir := scrubbedSites(t)
	parts, err := filepath.Glob(filepath.Join(dir, "here", "log", "*", "*", "*"))
	if err != nil || len(parts) != 8 {
		t.Fatalf("the log has %v, %v", parts, err)
	}
	whole, err := os.ReadFile(parts[3])
	if err == nil {
		err = os.WriteFile(parts[3], append(whole[:len(whole)-1:len(whole)-1], whole[len(whole)-1]^1), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAgent(Config{Workspace: workspace.New(c, slog.New(slog.DiscardHandler))})
	if err != nil {
		t.Fatal(err)
	}
	defer a.unlock() //nolint:errcheck // the test is over
	if len(a.scrubbers) != 2 {
		t.Fatalf("%d replicas are scrubbed, want two", len(a.scrubbers))
	}
	k := a.keepers[1]
	k.task = taskSnapshot
	if !a.busy() || !a.scrubbers[0].busy() {
		t.Error("a snapshot does not come first")
	}
	k.task = ""
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	for _, s := range a.scrubbers {
		go func() { s.run(ctx); done <- struct{}{} }()
	}
	defer func() {
		stop()
		<-done
		<-done
	}()
	good := func(s SystemStatus) bool {
		for _, x := range s.Scrubs {
			if x.Bytes == 0 || x.Verified < x.Bytes/2 || x.Overdue > 0 {
				return false
			}
		}
		return len(s.Scrubs) == 2 && s.Scrubs[0].Healed > 0
	}
	for until := time.Now().Add(time.Minute); !good(a.Status().Systems[0]); {
		if time.Now().After(until) {
			t.Fatalf("not within a minute: %+v", a.Status().Systems[0].Scrubs)
		}
		wait(t.Context(), 20*time.Millisecond)
	}
	for _, s := range a.Status().Systems {
		if x := s.Scrubs[0]; x.Found != 1 || x.Healed != 1 || len(x.Left) > 0 || s.Scrubs[1].Found > 0 {
			t.Errorf("%s: %+v", s.System, s.Scrubs)
		}
	}
	if now, err := os.ReadFile(parts[3]); err != nil || string(now) != string(whole) {
		t.Errorf("the part of the log is not as it was: %v", err)
	}
}

// What stays damaged, and a promise that is not kept, are illnesses; a replica that another host reads is its concern.
func TestScrubIllness(t *testing.T) {
	now := time.Date(2026, 3, 2, 14, 0, 0, 0, time.UTC)
	ago := func(days int) time.Time { return now.Add(-time.Duration(days) * 24 * time.Hour) }
	late := scrub.Statement{At: now, Window: 20 * 24 * time.Hour, Begun: ago(40), Oldest: ago(31), Overdue: 1, Bytes: 100}
	elsewhere, young := late, late
	elsewhere.By, young.Begun = "other", ago(29)
	for _, c := range []struct {
		st   scrub.Statement
		want string // "" for healthy
	}{
		{scrub.Statement{}, ""},
		{late, "not read again"},
		{elsewhere, ""},
		{young, ""},
		{scrub.Statement{Left: []scrub.Damage{{Object: "packs/x", Reason: "cut"}}}, "packs/x: cut"},
		{scrub.Statement{Error: "denied", Failing: ago(2)}, "denied"},
		{scrub.Statement{Error: "denied", Failing: now.Add(-time.Hour)}, ""},
	} {
		got := ScrubStatus{"there", c.st}.illness(now)
		if (c.want == "") != (len(got) == 0) || !strings.Contains(strings.Join(got, "; "), c.want) {
			t.Errorf("%+v: %q, want %q", c.st, got, c.want)
		}
	}
}
