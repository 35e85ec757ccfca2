package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/geo"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// What an object store bills: S3 Standard in us-east-1. docs/cost.md has these numbers, and where they come from.
const (
	dollarsPerWrite = 0.005 / 1000  // PUT, COPY, POST and LIST
	dollarsPerRead  = 0.0004 / 1000 // GET, HEAD and all others; DELETE is free
)

// bill is what was asked of stores.
type bill struct {
	writes, lists, reads, deletes float64
	sent, received                float64 // bytes
}

func billOf(t meter.Totals) (b bill) {
	for _, r := range t.Requests {
		switch n := float64(r.Count); r.Operation {
		case "put", "create":
			b.writes += n
		case "list":
			b.lists += n
		case "delete":
			b.deletes += n
		default:
			b.reads += n
		}
	}
	b.sent, b.received = float64(t.Sent), float64(t.Received)
	return b
}

// plus returns b with times as much as o.
func (b bill) plus(o bill, times float64) bill {
	return bill{b.writes + times*o.writes, b.lists + times*o.lists, b.reads + times*o.reads, b.deletes + times*o.deletes, b.sent + times*o.sent, b.received + times*o.received}
}

func (b bill) dollars() float64 {
	return (b.writes+b.lists)*dollarsPerWrite + b.reads*dollarsPerRead
}

func (b bill) String() string {
	return fmt.Sprintf("%7.1f writes %7.1f lists %7.1f reads %7.1f deletes %9.0f bytes sent %9.0f received  %.5f $", b.writes, b.lists, b.reads, b.deletes, b.sent, b.received, b.dollars())
}

// twoSites writes a configuration of a system at two sites.
func twoSites(t *testing.T, connection, dataDir string) *config.Config {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf(`version: 1
sites: {here: {jurisdiction: EU}, there: {jurisdiction: EU}}
repositories:
  main:
    replicas: [{site: here, url: "file://%[1]s/here"}, {site: there, url: "file://%[1]s/there"}]
    keys: {passphrase-file: %[1]s/passphrase}
    cache: %[1]s/cache
systems:
  orders-db:
    repository: main
    policy: gold
    jurisdictions: [EU]
    postgres: {connection: "%[2]s", data-directory: %[3]s, checkpoint: fast}
policies:
  gold:
    schedule: hourly
    copies: {sites: [here, there], min: 2}
agent: {state: %[1]s/state}
`, dir, connection, dataDir)
	path := filepath.Join(dir, "holdfast.yaml")
	for file, content := range map[string]string{path: text, filepath.Join(dir, "passphrase"): "correct horse battery staple and some more\n"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAnIdleDay counts what a system in which nothing happens asks of the stores of two sites in a day, with a snapshot each hour: what
// one of each task asks, on a real server, times the schedule; and what goes on all the time, by the code's own clock.
func TestAnIdleDay(t *testing.T) {
	t.Parallel()
	day := bill{}
	documented := costTable(t)
	add := func(what string, b bill, times float64) {
		all := bill{}.plus(b, times)
		day = day.plus(b, times)
		t.Logf("%-34s × %4.0f %s", what, times, all)
		// What one task leaves to be sent a moment later counts with the next one: by how much depends on how busy the machine is.
		row := documented[what]
		for i, got := range []float64{times, all.writes, all.lists, all.reads} {
			if i == 0 && what == continuous {
				continue
			}
			if want := row[i]; math.Abs(got-want) > 0.5*want+10*times {
				t.Errorf("%s: docs/cost.md says %v (times a day, PUT, LIST, GET), and it is %.0f: %s", what, row, times, all)
				break
			}
		}
	}
	c := eachTask(t)
	add("snapshot, with its log and its copy", c.snapshot, c.snapshots)
	add("retention", c.retention, c.snapshots) // follows each
	add("collection, at the first site", c.collection, float64(24*time.Hour/collectEvery))
	add("check, at the first site", c.check, c.checks)
	add(continuous, idleHour(t), 24)
	if c.checks != 1 || c.check.reads == 0 || c.check.received == 0 {
		t.Errorf("a day has %.0f checks, and one reads %s", c.checks, c.check)
	}
	t.Logf("%-34s        %s", "a day", day)
	t.Logf("a month: %.2f $", 30*day.dollars())
	if want := documented["**together**"]; math.Abs(day.writes-want[1]) > 0.2*want[1] || math.Abs(day.lists-want[2]) > 0.2*want[2] || math.Abs(day.reads-want[3]) > 0.2*want[3] {
		t.Errorf("docs/cost.md says %v (PUT, LIST, GET) of a day, and it is %s", want[1:], day)
	}
	if day.dollars() > 0.03 {
		t.Errorf("an idle day costs %.4f $ of requests; it shall be less than 3 cents", day.dollars())
	}
}

// continuous is what goes on between the tasks.
const continuous = "marks, keys, comparing the sites"

// costTable returns the rows of the table in docs/cost.md: how often a day, PUT, LIST and GET.
func costTable(t *testing.T) map[string][]float64 {
	t.Helper()
	b, err := os.ReadFile("../../docs/cost.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]float64{}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 8 {
			continue
		}
		var row []float64
		for _, cell := range cells[2:6] {
			v, _ := strconv.ParseFloat(strings.ReplaceAll(strings.TrimSpace(cell), ",", ""), 64) // "all the time" is none
			row = append(row, v)
		}
		rows[strings.TrimSpace(cells[1])] = row
	}
	return rows
}

// taskBills are what one of each task asks, and how often a day has them.
type taskBills struct {
	snapshot, retention, collection, check bill
	snapshots, checks                      float64
}

// inADay counts how often something is due in a day, of many: each has its own jitter.
func inADay(c calendar) float64 {
	const days = 100
	n, begin := 0.0, time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for at := c.Next(testSystem, begin); !at.IsZero() && at.Before(begin.Add(days*24*time.Hour)); at = c.Next(testSystem, at) {
		n++
	}
	return math.Round(n / days)
}

// eachTask does each task of an idle server at least once.
func eachTask(t *testing.T) (out taskBills) {
	t.Helper()
	server := pgtest.Start(t, pgtest.Options{Version: "15", Conf: map[string]string{"autovacuum": "off"}})
	c := twoSites(t, server.ConnString(""), server.DataDir)
	w := workspace.New(c, slog.New(slog.DiscardHandler))
	if _, _, err := w.Init(t.Context(), "main", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := newAgent(Config{Workspace: w, snapshots: func(config.Policy) calendar { return every(time.Millisecond) }})
	if err != nil {
		t.Fatal(err)
	}
	defer a.unlock() //nolint:errcheck // the test is over
	k := a.keepers[0]
	out.snapshots, out.checks = inADay(k.policy.Timing()), inADay(k.plan.checks)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1+len(k.copies))
	go func() { done <- k.stream.run(ctx) }()
	for _, m := range k.copies {
		go func() { m.run(ctx); done <- nil }()
	}
	defer func() {
		stop()
		for range 1 + len(k.copies) {
			<-done
		}
	}()
	quiet := func() {
		t.Helper()
		last, since := int64(-1), time.Now()
		for until := time.Now().Add(2 * time.Minute); time.Now().Before(until); {
			s := k.status(k.now())
			n := int64(0)
			for _, r := range s.Store.Requests {
				n += r.Count
			}
			copied := s.State.Last == nil || len(s.Replicas) > 0 && s.Replicas[0].Snapshot == s.State.Last.ID
			if n != last || !copied {
				last, since = n, time.Now()
			}
			if time.Since(since) > 3*time.Second {
				return
			}
			wait(t.Context(), 20*time.Millisecond)
		}
		t.Fatalf("it does not become quiet: %+v", k.status(k.now()))
	}
	k.resume(ctx)
	one := func(what task) bill {
		t.Helper()
		before := billOf(k.requests.Read())
		k.learn(ctx) // as before each snapshot
		k.set(begun(k.state, what, k.now()))
		o := k.ops.do(ctx, job{task: what}, nil)
		if o.err != nil || what == taskSnapshot && o.last == nil {
			t.Fatalf("%s: %v", what, o.err)
		}
		k.set(ended(k.state, what, k.now(), o, k.plan))
		quiet()
		return billOf(k.requests.Read()).plus(before, -1)
	}
	for range 3 { // in the end nothing is there for the first time
		one(taskSnapshot)
	}
	const rounds = 3
	for range rounds {
		out.snapshot = out.snapshot.plus(one(taskSnapshot), 1.0/rounds)
	}
	out.retention, out.collection, out.check = one(taskRetention), one(taskCollection), one(taskCheck)
	return out
}

// idleHour counts what the log's stream and the copies of a system ask while nothing happens.
func idleHour(t *testing.T) (hour bill) {
	t.Helper()
	c := twoSites(t, "host=127.0.0.1 port=1", "/nowhere")
	const hours = 3
	synctest.Test(t, func(t *testing.T) {
		requests, log := new(meter.Meter), slog.New(slog.DiscardHandler)
		open := func(site string) *workspace.Workspace {
			w := workspace.New(c, log)
			w.Meter, w.Site = requests, site
			return w
		}
		w := open("")
		if _, _, err := w.Init(t.Context(), "main", nil); err != nil {
			t.Fatal(err)
		}
		s, err := w.System(t.Context(), testSystem)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		cfg, err := w.FannedStream(ctx, s, log)
		if err != nil {
			t.Fatal(err)
		}
		writer := capture.NewLogWriter(cfg.Log, capture.LogOptions{IdleMarks: cfg.IdleMarks, Spool: cfg.Spool})
		ended := make(chan error, 10)
		go func() { ended <- writer.Run(context.WithoutCancel(ctx)) }()
		const from, end = wal.LSN(16 << 20), wal.LSN(16<<20 + 5000)
		if err := writer.Begin(ctx, 1, from, nil, 0); err != nil {
			t.Fatal(err)
		}
		if err := writer.Write(ctx, capture.LogArrival{Timeline: 1, Start: from, Data: make([]byte, end-from), Clock: time.Now(), End: end}); err != nil {
			t.Fatal(err)
		}
		newest := idleSnapshot(t, s, from, end)
		look := func() (seen, time.Time) {
			return seen{snapshot: newest, timeline: 1, durable: writer.Status().Stored}, writer.Status().StoredClock
		}
		fan := func() *geo.Fan { return cfg.Fan }
		for _, rep := range c.CopiesOf(s.System) {
			m := &mirror{open: open, system: s.System, site: rep.Site, home: "here", fan: fan, every: s.Policy.Log.Interval, look: look, log: log}
			go func() { m.run(ctx); ended <- nil }()
		}
		go func() {
			(&systemStream{}).watchKeys(ctx, func(error) {}, s.Repo)
			ended <- nil
		}()
		before := bill{}
		const message = 10 * time.Second // a server tells the time at least each half of wal_receiver_timeout, and when it is asked
		for at := time.Duration(0); at < (hours+1)*time.Hour; at += message {
			if at == time.Hour {
				before = billOf(requests.Read())
			}
			wait(ctx, message)
			if err := writer.Write(ctx, capture.LogArrival{Timeline: 1, Clock: time.Now(), End: end}); err != nil {
				t.Fatal(err)
			}
		}
		hour = bill{}.plus(billOf(requests.Read()).plus(before, -1), 1.0/hours)
		// What it is for: from each site everything up to some minutes ago can be recovered.
		for _, site := range []string{"here", "there"} {
			at := open(site)
			sys, err := at.System(ctx, testSystem)
			if err != nil {
				t.Fatal(err)
			}
			m, ok, err := sys.Repo.Log(testSystem).Mark(ctx, 1)
			if err != nil || !ok || m.LSN != uint64(end) || time.Since(m.Source) > 6*time.Minute {
				t.Errorf("the mark at %s: %+v, %t, %v; it is %s", site, m, ok, err, time.Now())
			}
			if err := at.Close(); err != nil {
				t.Error(err)
			}
		}
		writer.Finish()
		stop()
		for range 4 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := cfg.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return hour
}

// idleSnapshot writes a snapshot of nothing.
func idleSnapshot(t *testing.T, s workspace.System, from, end wal.LSN) repo.SnapshotID {
	t.Helper()
	w, err := s.Repo.Begin(t.Context(), testSystem, s.Group())
	if err != nil {
		t.Fatal(err)
	}
	facts, err := json.Marshal(pg.Facts{Version: 150018, Timeline: 1, StartLSN: from, StopLSN: end, SegmentSize: 16 << 20, BackupLabel: strings.Repeat("x", 200)})
	if err != nil {
		t.Fatal(err)
	}
	m := &repo.Manifest{Engine: pg.Engine, Facts: facts, Log: repo.LogRange{Stream: 1, Start: uint64(from), End: uint64(end)}}
	tree := w.NewTree(t.Context())
	if err = tree.Add("PG_VERSION", &repo.Entry{Type: repo.TypeFile}); err == nil {
		err = tree.Finish(m)
	}
	if err == nil {
		err = w.Commit(t.Context(), m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.ID
}
