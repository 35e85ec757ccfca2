package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/scrub"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/standby"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/verify"
)

// fullStatus has a value for every metric.
func fullStatus() Status {
	at := time.Date(2026, 3, 2, 14, 0, 0, 500_000_000, time.UTC)
	run := TaskRun{Started: at, Finished: at, Succeeded: at}
	return Status{Healthy: true, Systems: []SystemStatus{{
		System: "orders-db", Repository: "main", Site: "here", RecoveryPoint: at, RPO: 5, RTO: 60, Healthy: true,
		State: State{
			Snapshot: run, Retention: run, Collection: run, Check: run, Next: at, Optimize: run, Fragmentation: 1.2, Budget: 1000,
			Last:  &LastSnapshot{ID: "x", Started: at, Finished: at.Add(2 * time.Second), Bytes: 1000, Added: 10},
			Alarm: &capture.Alarm{Alarm: pg.Alarm{Snapshot: "w", Found: at, Missed: 3}, Doubtful: []repo.SnapshotID{"v"}},
			Found: []capture.Missed{{Path: "base/5/1", Block: 7}},
		},
		Stream:   &StreamStatus{Connected: true, Received: 0x2_9A000028, Durable: 0x2_9A000000, Lag: 40, SlotRetained: 100, SlotLimit: 1 << 30, Copies: &CopiesStatus{Sync: 2, Sites: []SiteStatus{{Site: "here", Member: true}}, GaveUp: true}},
		Replicas: []ReplicaStatus{{Site: "there", RecoveryPoint: at, Failures: 2, Since: at, Error: "cut"}},
		Scrubs: []ScrubStatus{{"here", scrub.Statement{
			Listed: at, Oldest: at, Window: 20 * time.Hour, Verified: 900, Young: 60, Overdue: 30, Damaged: 10, Read: 5000, Found: 3, Healed: 2,
			Left: []scrub.Damage{{Object: "packs/x", Reason: "missing"}}, Unseen: []scrub.Unseen{{Age: 5 * time.Hour, Share: 0.75}},
		}}},
		Standby: &standby.Status{Phase: standby.PhaseFollowing, LastCommit: at, Lag: 1500 * time.Millisecond, LagBytes: 30, LogFrom: standby.FromPrimary},
		Tests: &TestStatus{
			Last:   &verify.Summary{Finished: at, Outcome: verify.Passed, Depth: verify.Boot},
			Proven: []verify.Summary{{Finished: at}, {Finished: at}, {Finished: at}},
			Booted: &verify.Summary{RTO: 3 * time.Second, Phases: []boot.Phase{{Name: "start", Took: time.Second}, {Name: "start", Took: time.Second}}},
		},
		Failures: newFailures(),
		Store:    &meter.Totals{Requests: []meter.Requests{{Operation: "put", Result: "ok", Count: 7}}, Sent: 700, Received: 70},
	}}}
}

// exported returns what a registry tells, as name{labels} → type.
func exported(t *testing.T, status Status) map[string]string {
	t.Helper()
	families, err := newRegistry("v1", func() Status { return status }).Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "holdfast_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			if l.GetName() != "system" {
				labels = append(labels, l.GetName())
			}
		}
		out[withLabels(f.GetName(), labels)] = strings.ToLower(f.GetType().String())
	}
	return out
}

func withLabels(name string, labels []string) string {
	if len(labels) == 0 {
		return name
	}
	slices.Sort(labels)
	return name + "{" + strings.Join(labels, ",") + "}"
}

func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(holdfast_[a-z_]+)(?:\\{([a-z,]+)\\})?` \\| (gauge|counter) \\| .").FindAllStringSubmatch(string(page), -1) {
		var labels []string
		if m[2] != "" {
			labels = strings.Split(m[2], ",")
		}
		documented[withLabels(m[1], labels)] = m[3]
	}
	if diff := cmp.Diff(exported(t, fullStatus()), documented); diff != "" {
		t.Errorf("docs/metrics.md is not what is exported (-exported +documented):\n%s", diff)
	}
	for kind := range newFailures() {
		if !strings.Contains(string(page), "`"+kind+"`") {
			t.Errorf("docs/metrics.md does not tell of failures of kind %s", kind)
		}
	}
	for _, name := range regexp.MustCompile(`holdfast_[a-z_]+`).FindAllString(string(page), -1) {
		if !slices.ContainsFunc(metrics, func(m metric) bool { return m.name == name }) && name != "holdfast_build_info" {
			t.Errorf("docs/metrics.md names %s, which does not exist", name)
		}
	}
}

func TestWhatIsNotKnownIsLeftOut(t *testing.T) {
	got := exported(t, Status{Systems: []SystemStatus{{System: "orders-db", Failures: newFailures()}}})
	want := map[string]string{"holdfast_build_info{go,version}": "gauge", "holdfast_failures_total{kind}": "counter", "holdfast_healthy": "gauge"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMetricsText(t *testing.T) {
	status := fullStatus()
	body := httptest.NewRecorder()
	newHandler("v1", func() Status { return status }).ServeHTTP(body, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{
		`holdfast_recovery_point_timestamp_seconds{repository="main",site="here",system="orders-db"} 1.7724600005e+09`,
		`holdfast_snapshot_last_duration_seconds{system="orders-db"} 2`,
		`holdfast_task_last_success_timestamp_seconds{system="orders-db",task="check"} 1.7724600005e+09`,
		`holdfast_log_lag_bytes{system="orders-db"} 40`,
		`holdfast_standby_following{system="orders-db"} 1`,
		`holdfast_standby_lag_seconds{system="orders-db"} 1.5`,
		`holdfast_standby_streaming{system="orders-db"} 1`,
		`holdfast_snapshot_missed_pages{system="orders-db"} 4`,
		`holdfast_store_requests_total{operation="put",repository="main",result="ok",system="orders-db"} 7`,
		`holdfast_store_bytes_total{direction="received",repository="main",system="orders-db"} 70`,
		`holdfast_scrub_bytes{repository="main",site="here",state="overdue",system="orders-db"} 30`,
		`holdfast_scrub_unseen_ratio{age="0.25",repository="main",site="here",system="orders-db"} 0.75`,
		`holdfast_scrub_left{repository="main",site="here",system="orders-db"} 1`,
		`# TYPE holdfast_failures_total counter`,
	} {
		if !strings.Contains(body.Body.String(), line+"\n") {
			t.Errorf("/metrics lacks %s", line)
		}
	}
}

func TestHealth(t *testing.T) {
	now := time.Date(2026, 3, 2, 14, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name string
		s    SystemStatus
		want []string
	}{
		{"nothing wrong", SystemStatus{Stream: &StreamStatus{Connected: true, Since: ago(time.Hour)}}, nil},
		{"no stream by policy", SystemStatus{}, nil},
		{"away for a moment", SystemStatus{Stream: &StreamStatus{Since: ago(time.Minute), Error: "refused"}}, nil},
		{
			"away",
			SystemStatus{Stream: &StreamStatus{Since: ago(3 * time.Minute), Error: "no\n  reason: x"}},
			[]string{"the log is not received since 2026-03-02T13:57:00Z: no reason: x"},
		},
		{
			"away since the future",
			SystemStatus{Stream: &StreamStatus{Since: ago(-time.Hour), Error: "no"}},
			[]string{"the log is not received since 2026-03-02T15:00:00Z: no"},
		},
		{"received and not stored", SystemStatus{Stream: &StreamStatus{Connected: true, Since: ago(time.Hour), Error: "denied"}}, []string{"denied"}},
		{"a snapshot failed once", SystemStatus{State: State{Snapshot: TaskRun{Failures: 1, Error: "x"}}}, nil},
		{"snapshots fail", SystemStatus{State: State{Snapshot: TaskRun{Failures: 6, Error: "x"}}}, []string{"the last 6 tries to take a snapshot failed: x"}},
		{"overdue", SystemStatus{State: State{Next: ago(3 * time.Hour)}}, []string{"a snapshot is overdue since 2026-03-02T11:00:00Z"}},
		{"overdue, and it runs", SystemStatus{State: State{Next: ago(3 * time.Hour), Snapshot: TaskRun{Running: true}}}, nil},
		{"damage", SystemStatus{State: State{Damage: "1 objects"}}, []string{"the repository: 1 objects"}},
		{
			"the log did not tell",
			SystemStatus{State: State{Alarm: &capture.Alarm{
				Alarm: pg.Alarm{Snapshot: "c", Missed: 2, Pages: []string{"base/5/1: block 7", "base/5/1: block 8"}}, Doubtful: []repo.SnapshotID{"a", "b"},
			}}},
			[]string{"2 pages changed of which the log did not tell, as snapshot c found, which holds them: 2 snapshots from a to b may lack such changes, the first: base/5/1: block 7"},
		},
		{
			"the log did not tell, and no snapshot has all since",
			SystemStatus{State: State{Found: []capture.Missed{{Path: "base/5/1", Block: 7, Was: 8, Is: 16}}}},
			[]string{"pages changed of which the log did not tell, and no snapshot was taken since that holds them: base/5/1: block 7 changed, from LSN 0/8 to 0/10, and the log did not tell"},
		},
	} {
		if diff := cmp.Diff(c.want, illnesses(c.s, nil, now)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	if got := illnesses(SystemStatus{}, ErrSecondAgent, now); len(got) != 1 {
		t.Errorf("refused: %v", got)
	}
}

func TestHealthz(t *testing.T) {
	status := fullStatus()
	ask := func(path string) (int, string) {
		r := httptest.NewRecorder()
		newHandler("v1", func() Status { return status }).ServeHTTP(r, httptest.NewRequest(http.MethodGet, path, nil))
		return r.Code, r.Body.String()
	}
	if code, body := ask("/healthz"); code != http.StatusOK || body != "{\n  \"healthy\": true,\n  \"reasons\": {}\n}\n" {
		t.Errorf("healthy: %d %s", code, body)
	}
	status.Healthy = false
	status.Systems[0].Healthy, status.Systems[0].Reasons = false, []string{"the log is away"}
	code, body := ask("/healthz")
	var h health
	if err := json.Unmarshal([]byte(body), &h); err != nil || code != http.StatusServiceUnavailable || !slices.Equal(h.Reasons["orders-db"], []string{"the log is away"}) {
		t.Errorf("ill: %d %s", code, body)
	}
	if got := status.sentence(); got != "orders-db: the log is away" {
		t.Errorf("the sentence is %q", got)
	}
	code, body = ask("/status")
	var back Status
	if err := json.Unmarshal([]byte(body), &back); err != nil || code != http.StatusOK {
		t.Fatalf("/status: %d, %v", code, err)
	}
	if diff := cmp.Diff(status, back, cmpopts.IgnoreUnexported(TestStatus{})); diff != "" {
		t.Errorf("/status (-told +read):\n%s", diff)
	}
}

func TestShareOut(t *testing.T) {
	for _, c := range []struct {
		memory  dr.Bytes
		systems int
		short   bool
	}{{64 << 20, 1, true}, {384 << 20, 1, false}, {384 << 20, 3, true}, {2 << 30, 3, false}, {64 << 30, 20, false}} {
		cfg := &config.Config{Policies: map[string]config.Policy{"p": {Log: config.Log{Stream: true}}}, Agent: config.Agent{Memory: c.memory}}
		systems := slices.Repeat([]config.System{{Policy: "p"}}, c.systems)
		s := shareOut(cfg, systems)
		need := dr.Bytes(c.systems)*(streamMemory+dr.Bytes(s.blocks)*blockMemory) + dr.Bytes(cap(s.heavy)*s.workers)*workerMemory
		name := fmt.Sprintf("%v for %d systems: %+v needs %v", c.memory, c.systems, s, need)
		if s.short != c.short || s.workers < 1 || cap(s.heavy) < 1 || cap(s.heavy) > c.systems || s.blocks < fewestBlocks || s.blocks > mostBlocks {
			t.Error(name)
		}
		if !c.short && need > c.memory || need > dr.Bytes(s.limit) {
			t.Errorf("too much: %s", name)
		}
	}
}
