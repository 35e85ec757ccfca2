package config

import (
	"encoding/json"
	"fmt"
	"regexp"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Any two texts as names of systems: the configuration takes exactly the names, whatever YAML makes of the text, keeps
// them as they are, and gives each a replication slot of its own that PostgreSQL accepts.
func FuzzSystemNames(f *testing.F) {
	long := "a-system-whose-name-is-exactly-as-long-as-names-may-be-in-here"
	for _, pair := range [][2]string{{"a", "b"}, {"a-b", "a--b"}, {"on", "0x1"}, {"1", "01"}, {"null", "~"}, {long, long + "x"}, {"..", "a/b"}, {"x: {}", "&a"}, {"1e3", "1-2-3"}} {
		f.Add(pair[0], pair[1])
	}
	slot := regexp.MustCompile(`\A[a-z0-9_]{1,63}\z`)
	f.Fuzz(func(t *testing.T, a, b string) {
		quotedA, errA := json.Marshal(a)
		quotedB, errB := json.Marshal(b)
		if errA != nil || errB != nil {
			return
		}
		const system = "  %s: {repository: main, policy: gold, postgres: {connection: \"host=/tmp\"}}\n"
		text := fmt.Sprintf("version: 1\nsites: {here: {}}\nrepositories:\n  main: {replicas: [{site: here, url: file:///srv/x}], keys: {passphrase-file: /srv/p}}\nsystems:\n"+
			system+system+"policies: {gold: {schedule: hourly}}\nagent: {state: /srv/state}\n", quotedA, quotedB)
		c, err := Parse("f", []byte(text))
		if want := dr.CheckName(a) == nil && dr.CheckName(b) == nil && a != b; (err == nil) != want {
			t.Fatalf("systems %q and %q: %v; that they are accepted should be %v", a, b, err, want)
		}
		if err != nil {
			return
		}
		one, two := c.Systems[dr.SystemName(a)].Postgres.Slot, c.Systems[dr.SystemName(b)].Postgres.Slot
		if one == two || !slot.MatchString(one) || !slot.MatchString(two) {
			t.Fatalf("systems %q and %q have the slots %q and %q", a, b, one, two)
		}
	})
}
