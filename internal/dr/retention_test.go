package dr

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRetentionSelect(t *testing.T) {
	hourly := func(from string, n int) (ts []time.Time) {
		for i := range n {
			ts = append(ts, at(t, from).Add(time.Duration(i)*time.Hour))
		}
		return ts
	}
	list := func(ss ...string) (ts []time.Time) {
		for _, s := range ss {
			ts = append(ts, at(t, s))
		}
		return ts
	}
	for _, c := range []struct {
		name  string
		rule  Retention
		taken []time.Time
		want  string // "index:reasons index:reasons"
	}{
		{"nothing to select", Retention{KeepLast: 3}, nil, ""},
		{"the zero value keeps everything", Retention{}, list("2026-03-01T00:00", "2020-01-01T00:00"), "0:no rule 1:no rule"},
		{"last", Retention{KeepLast: 2}, list("2026-03-03T00:00", "2026-03-01T00:00", "2026-03-02T00:00"), "0:last 2:last"},
		{"last of more than there are", Retention{KeepLast: 9}, list("2026-03-03T00:00"), "0:last"},
		{"of equal times the later element is newer", Retention{KeepLast: 1}, list("2026-03-03T00:00", "2026-03-03T00:00"), "1:last"},
		{"the newest of each hour", Retention{Hourly: 2}, list("2026-03-03T10:05", "2026-03-03T10:55", "2026-03-03T11:00", "2026-03-03T11:59"), "1:hourly 3:hourly"},
		{"hours without a snapshot do not count", Retention{Hourly: 2}, list("2026-03-01T10:05", "2026-03-03T11:59"), "0:hourly 1:hourly"},
		{"days", Retention{Daily: 2}, hourly("2026-03-01T00:00", 72), "47:daily 71:daily"},
		{"days are those of UTC", Retention{Daily: 1}, list("2026-03-01T23:59", "2026-03-02T00:01"), "1:daily"},
		{"rules add up on one snapshot", Retention{KeepLast: 1, Hourly: 1, Daily: 1, Weekly: 1, Monthly: 1, Yearly: 1}, hourly("2026-03-01T00:00", 5), "4:last,hourly,daily,weekly,monthly,yearly"},
		// 2026-03-01 is a Sunday.
		{"a week begins on Monday", Retention{Weekly: 2}, list("2026-03-01T12:00", "2026-03-02T12:00", "2026-03-08T12:00"), "0:weekly 2:weekly"},
		// 2024-12-30 and 2025-01-01 are in ISO week 1 of 2025; 2024-12-29 is in week 52 of 2024.
		{"a week goes over the end of the year", Retention{Weekly: 2}, list("2024-12-29T12:00", "2024-12-30T12:00", "2025-01-01T12:00"), "0:weekly 2:weekly"},
		{"months", Retention{Monthly: 2}, list("2025-03-31T00:00", "2026-02-28T23:00", "2026-03-01T00:00", "2026-03-02T00:00"), "1:monthly 3:monthly"},
		{"the same month of two years are two", Retention{Monthly: 2}, list("2025-03-01T00:00", "2026-03-01T00:00"), "0:monthly 1:monthly"},
		{"years", Retention{Yearly: 2}, list("2024-12-31T00:00", "2025-12-31T00:00", "2026-01-01T00:00"), "1:yearly 2:yearly"},
		{"negative counts keep nothing but the newest", Retention{Daily: -1}, list("2026-03-01T00:00", "2026-03-02T00:00"), "1:newest"},
	} {
		if got := printKept(c.rule.Select(c.taken)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestRetentionCountsPeriodsInUTCWhateverTheLocation(t *testing.T) {
	taken := []time.Time{at(t, "2026-03-01T23:30"), at(t, "2026-03-02T00:30")}
	tokyo := make([]time.Time, len(taken))
	for i := range taken {
		tokyo[i] = taken[i].In(time.FixedZone("JST", 9*3600)) // one day there
	}
	rule := Retention{Daily: 2}
	if got, want := printKept(rule.Select(tokyo)), printKept(rule.Select(taken)); got != want {
		t.Errorf("in Tokyo %q is kept, in UTC %q", got, want)
	}
}

// A policy that is applied again and again must come to rest: what the first run keeps, the second keeps too,
// with nothing new in between. And more rules never keep less.
func TestRetentionProperties(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		rule := Retention{1 + rnd.IntN(4), rnd.IntN(5), rnd.IntN(5), rnd.IntN(5), rnd.IntN(5), rnd.IntN(3)}
		var taken []time.Time
		for range rnd.IntN(200) {
			taken = append(taken, at(t, "2026-03-01T00:00").Add(-time.Duration(rnd.Int64N(int64(3*365*24*time.Hour)))))
		}
		var kept []time.Time
		for i, r := range rule.Select(taken) {
			if len(r) > 0 {
				kept = append(kept, taken[i])
			}
		}
		for i, r := range rule.Select(kept) {
			if len(r) == 0 {
				t.Fatalf("%+v keeps %v in the first run and forgets it in the second", rule, kept[i])
			}
		}
		wider := rule
		wider.Daily += 3
		after := wider.Select(taken)
		for i, r := range rule.Select(taken) {
			if len(r) > 0 && len(after[i]) == 0 {
				t.Fatalf("%+v keeps %v, %+v does not", rule, taken[i], wider)
			}
		}
	}
}

func printKept(kept []Reasons) string {
	var out []string
	for i, r := range kept {
		if len(r) > 0 {
			out = append(out, string(rune('0'+i/10))+string(rune('0'+i%10))+":"+strings.Join(r, ","))
		}
	}
	for i := range out {
		out[i] = strings.TrimPrefix(out[i], "0")
	}
	return strings.Join(slices.Clip(out), " ")
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse("2006-01-02T15:04", s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
