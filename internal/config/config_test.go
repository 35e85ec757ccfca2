package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the difference before it is committed")

// Every mistake has a file testdata/*.bad.yml and the message that it gives beside it.
func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse("holdfast.yaml", text)
			var all Mistakes
			if !errors.As(err, &all) {
				t.Fatalf("Parse gives %v; want Mistakes", err)
			}
			golden(t, strings.TrimSuffix(path, ".bad.yml")+".golden", []byte(err.Error()+"\n"))
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a message repeats a secret")
			}
		})
	}
}

func TestShowSpellsOutEveryDefault(t *testing.T) {
	for _, path := range []string{"testdata/small.yaml", "testdata/full.yaml"} {
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		shown, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, path+".golden", shown)
		again, err := Parse(path, shown)
		if err != nil {
			t.Fatalf("what %s is shown as has mistakes:\n%v", path, err)
		}
		if shownAgain, err := again.Marshal(); err != nil || !bytes.Equal(shown, shownAgain) {
			t.Errorf("%s changes when it is read back (%v):\n%s", path, err, cmp.Diff(string(shown), string(shownAgain)))
		}
	}
}

func TestLoadFull(t *testing.T) {
	c, err := Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.System("orders-db")
	if err != nil {
		t.Fatal(err)
	}
	p := c.PolicyOf(s)
	if got := p.Timing(); got.Schedule.String() != "every 30m" || got.Jitter != 90*time.Second || len(got.Windows) != 2 {
		t.Errorf("timing is %+v", got)
	}
	p.Schedule, p.Windows, p.Check.Schedule, p.Verify.Schedule = dr.Schedule{}, nil, dr.Schedule{}, dr.Schedule{}
	want := Policy{
		Name: "gold", Jitter: 90 * time.Second,
		Log:        Log{Stream: true, Interval: 500 * time.Millisecond, Acknowledge: AcknowledgeSpool, SpoolLimit: 40e9},
		Copies:     Copies{Min: 1, Sync: 1, Patience: 30 * time.Second},
		Retention:  dr.Retention{KeepLast: 1, Hourly: 2, Daily: 3, Weekly: 4, Monthly: 5, Yearly: 6},
		Check:      Check{Sample: 0.025},
		Verify:     Verify{Depth: VerifyQuery, At: VerifyRecorded, Way: VerifyMount, Sample: 0.03, Sandbox: "/var/tmp", Memory: 2 << 30, Timeout: 5 * time.Minute},
		Optimize:   Optimize{Budget: 1},
		Objectives: dr.Objective{RPO: time.Minute, RTO: 15 * time.Minute, MTD: 48 * time.Hour},
	}
	if diff := cmp.Diff(want, p, cmp.AllowUnexported(dr.Schedule{})); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	wantSystem := System{
		Name: "orders-db", Repository: "main", Residency: "eu", Jurisdictions: []string{"EU", "CH"}, Policy: "gold",
		Postgres: Postgres{
			Connection:    "host=/var/run/postgresql user=holdfast dbname=postgres",
			DataDirectory: "/var/lib/postgresql/15/main", BinDirectory: "/usr/lib/postgresql/15/bin",
			Slot: "holdfast", Checkpoint: CheckpointSpread,
		},
		Verify: SystemVerify{Preload: []string{"timescaledb"}, Superuser: "admin", Assertions: []Assertion{
			{Name: "many-orders", Database: "shop", SQL: "SELECT count(*) FROM orders", AtLeast: "1000", AtMost: "2e9"},
			{Name: "fresh", Database: "shop", SQL: "SELECT max(created) FROM orders", NewerThan: time.Hour},
			{Name: "balance", Database: "postgres", SQL: "SELECT sum(amount) FROM ledger", Equals: "0"},
			{Name: "same-orders", Database: "shop", Table: "public.orders", EqualsSource: true},
		}},
	}
	if diff := cmp.Diff(wantSystem, s); diff != "" {
		t.Errorf("system (-want +got):\n%s", diff)
	}
	gigabytes, err := dr.ParsePace("20GiB/day")
	if err != nil {
		t.Fatal(err)
	}
	wantRepo := Repository{
		Name: "main", Cache: "/var/cache/holdfast",
		Replicas: []Replica{
			{Site: "frankfurt", URL: "s3://backups/pg?region=eu-central-1&endpoint=https://s3.example.com&path-style=true", Lock: Lock{LockCompliance, 30 * 24 * time.Hour}, Scrub: Scrub{gigabytes, DefaultWindow}},
			{Site: "zurich", URL: "file:///mnt/zurich/holdfast", Scrub: Scrub{dr.Daily(0.1), 12 * 24 * time.Hour}},
		},
		Keys: Keys{PassphraseFile: "/etc/holdfast/passphrase", IdentityFiles: []string{"/etc/holdfast/age.key"}},
	}
	if diff := cmp.Diff(wantRepo, c.RepositoryOf(s), cmp.AllowUnexported(dr.Pace{})); diff != "" {
		t.Errorf("repository (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Agent{"0.0.0.0:9847", "/srv/holdfast", 512 << 20, true}, c.Agent); diff != "" {
		t.Errorf("agent (-want +got):\n%s", diff)
	}
}

// Directories are read over and over unless somebody says no, and nothing else is unless somebody says so.
func TestWhatIsScrubbed(t *testing.T) {
	c, err := Parse("holdfast.yaml", []byte(`version: 1
sites: {a: {}, b: {}, c: {}, d: {}, e: {}}
repositories:
  main:
    replicas:
      - {site: a, url: "file:///mnt/a"}
      - {site: b, url: "s3://bucket/b?region=eu-central-1"}
      - {site: c, url: "file:///mnt/c", scrub: {budget: off}}
      - {site: d, url: "sftp://x@y/d", scrub: {budget: 1%/day}}
      - {site: e, url: "file:///mnt/e", scrub: {window: 40d}}
    keys: {passphrase-file: /etc/holdfast/passphrase}
`))
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	want := []Scrub{{dr.Daily(0.05), 20 * day}, {dr.Daily(0), 0}, {dr.Daily(0), 0}, {dr.Daily(0.01), 100 * day}, {dr.Daily(0.05), 40 * day}}
	for i, r := range c.Repositories["main"].Replicas {
		if r.Scrub != want[i] {
			t.Errorf("%s: %+v, want %+v", r.URL, r.Scrub, want[i])
		}
	}
}

func TestLookupsSayWhatThereIs(t *testing.T) {
	c, err := Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.System("order-db")
	if err == nil || !strings.Contains(err.Error(), `did you mean "orders-db"?`) || !IsUnknownName(err) {
		t.Errorf("got %v", err)
	}
	if _, err = c.Repository("other"); err == nil || !strings.Contains(err.Error(), `it declares the repository "main"`) {
		t.Errorf("got %v", err)
	}
	if r, err := c.Repository("main"); err != nil || r.Name != "main" {
		t.Errorf("got %v, %v", r, err)
	}
}

func TestSlotsOfLongNamesFitAndDiffer(t *testing.T) {
	long := dr.SystemName(strings.Repeat("a", 62))
	a, b := slotFor(long+"b"), slotFor(long+"c")
	if a == b || checkSlot(a) != nil || checkSlot(b) != nil {
		t.Errorf("slots %q and %q; want two that PostgreSQL allows", a, b)
	}
	if got := slotFor("orders-db"); got != "holdfast_orders_db" {
		t.Errorf("the slot of orders-db is %q", got)
	}
}

func TestSchemaIsCurrent(t *testing.T) {
	s, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "../../docs/holdfast.schema.json", s)
}

func TestFind(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(EnvironmentVariable, "")
	if _, err := os.Stat(searched[1]); err == nil {
		t.Skip(searched[1] + " exists on this machine")
	}
	if got, err := Find(""); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without any file: %q, %v", got, err)
	}
	if err := os.WriteFile("holdfast.yaml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(""); got != "holdfast.yaml" || err != nil {
		t.Errorf("in the working directory: %q, %v", got, err)
	}
	t.Setenv(EnvironmentVariable, "/b")
	if got, err := Find(""); got != "/b" || err != nil {
		t.Errorf("by the environment: %q, %v", got, err)
	}
	if got, err := Find("/a"); got != "/a" || err != nil {
		t.Errorf("by flag: %q, %v", got, err)
	}
}

func TestLoadNamesAFileThatCannotBeRead(t *testing.T) {
	_, err := Load("testdata/none.yaml")
	if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "read the configuration testdata/none.yaml\n  reason: no such file") {
		t.Errorf("got %v", err)
	}
	if _, err = Load("testdata"); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("got %v", err)
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; rewrite with -update):\n%s", path, diff)
	}
}

// Servers of one's own may have buckets of one name, one at each site; one bucket has one replica.
func TestBucketsOfOneName(t *testing.T) {
	const first, other = "s3://backup/main?endpoint=http://one.example:9000", "s3://backup/main?endpoint=http://two.example:9000"
	for second, same := range map[string]bool{other: false, first: true, first + "/&region=eu-1": true} {
		_, err := Parse("holdfast.yaml", []byte(fmt.Sprintf(`version: 1
sites: {one: {}, two: {}}
repositories:
  main:
    replicas: [{site: one, url: %q}, {site: two, url: %q}]
    keys: {passphrase-file: /p}
`, first, second)))
		if same != (err != nil && strings.Contains(err.Error(), "in the same place")) {
			t.Errorf("%s and %s: %v", first, second, err)
		}
	}
}
