package dr

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests know their zones on every machine
)

func TestScheduleNext(t *testing.T) {
	for _, c := range []struct {
		schedule, zone, after string
		want                  string // several instants, one after another
	}{
		{"hourly", "UTC", "2026-03-01T10:59:59", "03-01T11:00Z 03-01T12:00Z"},
		{"hourly", "UTC", "2026-03-01T11:00:00", "03-01T12:00Z"},
		{"hourly", "Asia/Kolkata", "2026-03-01T10:10:00", "03-01T11:00+0530 03-01T12:00+0530"},
		{"daily", "UTC", "2026-02-28T00:00:00", "03-01T00:00Z"},
		{"weekly", "UTC", "2026-03-01T00:00:00", "03-08T00:00Z 03-15T00:00Z"},
		{"every 15m", "UTC", "2026-03-01T10:14:59", "03-01T10:15Z 03-01T10:30Z"},
		{" every  6h ", "UTC", "2026-03-01T06:00:00", "03-01T12:00Z 03-01T18:00Z 03-02T00:00Z"},
		{"30 2 * * 1-5", "UTC", "2026-02-27T02:30:00", "03-02T02:30Z"},
		{"0 0 29 2 *", "UTC", "2026-03-01T00:00:00", "02-29T00:00Z"},
		// Clocks go from 2:00 to 3:00 on 2026-03-29 in Berlin: what is due at 2:30 still happens, once.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T03:00:00", "03-29T03:30+0200 03-30T02:30+0200"},
		// They go from 3:00 back to 2:00 on 2026-10-25: what is due at 2:30 happens once.
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T03:00:00", "10-25T02:30+0100 10-26T02:30+0100"},
		// Hours go on by the hour on both days.
		{"hourly", "Europe/Berlin", "2026-03-29T01:00:00", "03-29T03:00+0200 03-29T04:00+0200"},
		{"hourly", "Europe/Berlin", "2026-10-25T01:00:00", "10-25T02:00+0200 10-25T02:00+0100 10-25T03:00+0100"},
		{"every 30m", "Europe/Berlin", "2026-10-25T01:30:00", "10-25T02:00+0200 10-25T02:30+0200 10-25T02:00+0100"},
		// Midnight of 2018-11-04 does not exist in São Paulo; the day is not lost.
		{"daily", "America/Sao_Paulo", "2018-11-03T12:00:00", "11-04T01:00-0200 11-05T00:00-0200"},
	} {
		s, err := ParseSchedule(c.schedule)
		if err != nil {
			t.Errorf("ParseSchedule(%q): %v", c.schedule, err)
			continue
		}
		now := in(t, c.zone, c.after)
		var got []string
		for range strings.Fields(c.want) {
			n := s.Next(now)
			if !n.After(now) {
				t.Fatalf("%q: Next(%v) = %v is not later", c.schedule, now, n)
			}
			now = n
			got = append(got, n.Format("01-02T15:04Z0700"))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%q after %s in %s: got %s, want %s", c.schedule, c.after, c.zone, g, c.want)
		}
	}
	if n := (Schedule{}).Next(time.Now()); !n.IsZero() {
		t.Errorf("the zero Schedule is due at %v, want never", n)
	}
}

func TestParseScheduleRefuses(t *testing.T) {
	for s, want := range map[string]string{
		"":                      "is no schedule",
		"sometimes":             "is no schedule",
		"every":                 "is no schedule",
		"every day":             `write the interval as in "every 15m"`,
		"every 10s":             "at least a minute",
		"every -5m":             "at least a minute",
		"every 90000h":          "at most a year",
		"61 * * * *":            "above maximum",
		"0 0 30 2 *":            "never due",
		"* * * *":               "is no schedule",
		"0 0 0 * * *":           "is no schedule",
		"@every 5m":             "is no schedule",
		"TZ=UTC 0 * * *":        "is no schedule",
		"CRON_TZ=UTC 0 0 * * *": "is no schedule",
	} {
		if got, err := ParseSchedule(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSchedule(%q) = %v, %v; want an error with %q", s, got, err, want)
		}
	}
}

func TestScheduleInterval(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"hourly": time.Hour, "daily": 24 * time.Hour, "weekly": 7 * 24 * time.Hour, "every 15m": 15 * time.Minute,
		"0,20 * * * *": 20 * time.Minute, "0 1,3 * * *": 2 * time.Hour,
	} {
		sched, err := ParseSchedule(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := sched.Interval(); got != want {
			t.Errorf("the interval of %q is %v, want %v", s, got, want)
		}
		if sched.String() != s || sched.IsZero() {
			t.Errorf("schedule %q prints as %q", s, sched)
		}
	}
}

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		windows, zone, from, want string
	}{
		{"", "UTC", "2026-03-01T12:34:56", "03-01T12:34Z"},
		{"22:00-06:00", "UTC", "2026-03-01T23:00:00", "03-01T23:00Z"},
		{"22:00-06:00", "UTC", "2026-03-01T05:59:59", "03-01T05:59Z"},
		{"22:00-06:00", "UTC", "2026-03-01T06:00:00", "03-01T22:00Z"},
		{"22:00-24:00", "UTC", "2026-03-01T00:00:00", "03-01T22:00Z"},
		{"00:00-24:00", "UTC", "2026-03-01T23:59:59", "03-01T23:59Z"},
		{"01:00-02:00 12:00-13:00", "UTC", "2026-03-01T02:00:01", "03-01T12:00Z"},
		{"01:00-02:00 12:00-13:00", "UTC", "2026-03-01T13:00:00", "03-02T01:00Z"},
		// The window of the night on which 2:00 to 3:00 does not exist opens on the next day.
		{"02:00-03:00", "Europe/Berlin", "2026-03-29T00:00:00", "03-30T02:00+0200"},
		{"02:30-04:00", "Europe/Berlin", "2026-03-29T00:00:00", "03-29T03:00+0200"},
		// The hour that comes twice is in the window twice.
		{"02:00-03:00", "Europe/Berlin", "2026-10-25T00:00:00", "10-25T02:00+0200"},
		{"01:00-02:00", "Europe/Berlin", "2026-10-25T02:10:00", "10-26T01:00+0100"},
	} {
		var ws Windows
		for f := range strings.FieldsSeq(c.windows) {
			ws = append(ws, window(t, f))
		}
		got := ws.Next(in(t, c.zone, c.from))
		if g := got.Format("01-02T15:04Z0700"); g != c.want {
			t.Errorf("windows %q after %s: got %s, want %s", c.windows, c.from, g, c.want)
		}
		if !ws.Contain(got) {
			t.Errorf("windows %q: %v is in none of them", c.windows, got)
		}
	}
	for s, want := range map[string]time.Duration{"22:00-06:00": 8 * time.Hour, "22:00-00:00": 2 * time.Hour, "00:00-24:00": 24 * time.Hour} {
		if w := window(t, s); w.Length() != want {
			t.Errorf("window %s is %v long, want %v", s, w.Length(), want)
		}
	}
	for _, s := range []string{"", "22:00", "22-06", "22:00-25:00", "24:00-06:00", "06:00-06:00", "a-b", "22:00-06:00-07:00"} {
		if w, err := ParseWindow(s); err == nil {
			t.Errorf("ParseWindow(%q) = %v; want an error", s, w)
		}
	}
}

func TestTimingNext(t *testing.T) {
	sched := func(s string) Schedule {
		v, err := ParseSchedule(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	night := Windows{window(t, "22:00-06:00")}
	j := Jitter("orders-db", 10*time.Minute)
	if j == 0 {
		t.Fatal("orders-db has no jitter; the test would prove nothing")
	}
	for _, c := range []struct {
		name   string
		timing Timing
		last   string
		want   time.Time
	}{
		{"plain", Timing{Schedule: sched("hourly")}, "2026-03-01T10:00:00", at(t, "2026-03-01T11:00")},
		{"with jitter", Timing{Schedule: sched("hourly"), Jitter: 10 * time.Minute}, "2026-03-01T10:00:01", at(t, "2026-03-01T11:00").Add(j)},
		{"moved into the window", Timing{Schedule: sched("hourly"), Windows: night}, "2026-03-01T05:00:00", at(t, "2026-03-01T22:00")},
		{"moved into the window, with jitter", Timing{sched("hourly"), 10 * time.Minute, night}, "2026-03-01T05:03:00", at(t, "2026-03-01T22:00").Add(j)},
		{"once for all that was moved", Timing{sched("hourly"), 10 * time.Minute, night}, "2026-03-01T22:03:00", at(t, "2026-03-01T23:00").Add(j)},
		{"jitter does not leave the window", Timing{sched("59 5 * * *"), 10 * time.Minute, night}, "2026-03-01T00:00:00", at(t, "2026-03-01T05:59")},
		{"never outside even if due outside only", Timing{Schedule: sched("0 12 * * *"), Windows: night}, "2026-03-01T00:00:00", at(t, "2026-03-01T22:00")},
		{"down for days: due once, in the past", Timing{Schedule: sched("hourly")}, "2026-02-01T10:30:00", at(t, "2026-02-01T11:00")},
		{"never", Timing{}, "2026-03-01T00:00:00", time.Time{}},
	} {
		if got := c.timing.Next("orders-db", in(t, "UTC", c.last)); !got.Equal(c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestJitterIsSteadyAndSpread(t *testing.T) {
	seen := map[time.Duration]int{}
	for a := 'a'; a <= 'z'; a++ {
		for b := '0'; b <= '9'; b++ {
			name := SystemName("db-" + string(a) + string(b))
			j := Jitter(name, time.Minute)
			if j != Jitter(name, time.Minute) || j < 0 || j >= time.Minute || j%time.Second != 0 {
				t.Fatalf("the jitter of %s is %v", name, j)
			}
			seen[j]++
		}
	}
	// 260 systems over 60 seconds: about four each.
	for j, n := range seen {
		if n > 20 {
			t.Errorf("%d of 260 systems begin %v late", n, j)
		}
	}
	if len(seen) < 45 {
		t.Errorf("only %d of 60 seconds are used", len(seen))
	}
	if j := Jitter("x", 0); j != 0 {
		t.Errorf("no jitter gives %v", j)
	}
}

func in(t *testing.T, zone, s string) time.Time {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	v, err := time.ParseInLocation("2006-01-02T15:04:05", s, loc)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func window(t *testing.T, s string) Window {
	t.Helper()
	w, err := ParseWindow(s)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
