package verify

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/pg/figure"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

func TestJudge(t *testing.T) {
	moment := time.Date(2026, 3, 2, 14, 0, 0, 0, time.UTC)
	text := func(s string) *string { return &s }
	for _, c := range []struct {
		a     config.Assertion
		value *string
		holds bool
	}{
		{config.Assertion{Equals: "7"}, text("7.00"), true},
		{config.Assertion{Equals: "7"}, text("7.01"), false},
		{config.Assertion{Equals: "shipped"}, text("shipped"), true},
		{config.Assertion{Equals: "shipped"}, nil, false},
		{config.Assertion{AtLeast: "10"}, text("10"), true},
		{config.Assertion{AtLeast: "10"}, text("9.9999999999999999999"), false},
		{config.Assertion{AtLeast: "10", AtMost: "2e3"}, text("2001"), false},
		{config.Assertion{AtMost: "2e3"}, text("many"), false},
		{config.Assertion{NewerThan: time.Hour}, text("2026-03-02 13:30:00.5+00"), true},
		{config.Assertion{NewerThan: time.Hour}, text("2026-03-02 12:30:00"), false},
		{config.Assertion{NewerThan: 48 * time.Hour}, text("2026-03-01"), true},
		{config.Assertion{NewerThan: time.Hour}, text("yesterday"), false},
	} {
		if why := judge(c.a, c.value, nil, moment); (why == "") != c.holds {
			t.Errorf("%+v of %v: %q", c.a, c.value, why)
		}
	}
	same := config.Assertion{EqualsSource: true}
	if why := judge(same, text("a"), &figure.Answer{Value: text("b")}, moment); why != "it is a, and the source had b" {
		t.Error(why)
	}
	if why := judge(same, nil, &figure.Answer{}, moment); why != "" {
		t.Error(why)
	}
}

// What the source said after the snapshot is compared at that very position, and at none at which more was committed.
func TestQueryAgainstTheSource(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.s.Exec("", "CREATE TABLE orders AS SELECT i, now() AS at FROM generate_series(1, 100) AS i")
	asked := []config.Assertion{
		{Name: "count", Database: "postgres", SQL: "SELECT count(*) FROM orders", EqualsSource: true},
		{Name: "digest", Database: "postgres", Table: "public.orders", EqualsSource: true},
		{Name: "fresh", Database: "postgres", SQL: "SELECT max(at) FROM orders", NewerThan: time.Hour},
		{Name: "wrong", Database: "postgres", SQL: "SELECT count(*) FROM orders", AtLeast: "1000"},
	}
	lie := false
	w.figures = func(ctx context.Context) *figure.Recorded {
		// Somebody commits while the snapshot is taken, and after the figures.
		w.s.Exec("", "INSERT INTO orders VALUES (101, now())")
		r := figure.Record(ctx, []figure.Question{
			{Name: "count", Database: "postgres", SQL: "SELECT count(*) FROM orders"}, {Name: "digest", Database: "postgres", Table: "public.orders"},
		}, 0, func(ctx context.Context, db string) (*pgx.Conn, error) { return pgx.Connect(ctx, w.s.ConnString(db)) })
		if lie {
			r.Databases[0].Answers[0].Value = nil
		}
		w.s.Exec("", "INSERT INTO orders VALUES (102, now())")
		return r
	}
	w.snapshot()
	w.archive()
	test := func(at string) *Result {
		t.Helper()
		c, err := Choose(t.Context(), w.r, system, at)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(t.Context(), w.r, c.Plan, Options{Depth: Query, Sandbox: w.base, RestoreCommand: w.restoreCommand(), BinDir: w.s.BinDir, Assertions: asked, PlanTook: c.Took})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := test(Recorded)
	if r.ProblemCount != 1 || r.Proven != Check || len(r.Asserted) != 4 || r.Problems[0].What != "assertion wrong" {
		t.Fatalf("%+v", r)
	}
	for _, a := range r.Asserted[:3] {
		if !a.Holds {
			t.Errorf("%+v", a)
		}
	}
	if got := r.Asserted[0].Got; got == nil || *got != "101" {
		t.Errorf("count is %v", got)
	}
	r = test("latest")
	if left := strings.Join(r.NotCovered, "\n"); r.Asserted[0].Left == "" || !strings.Contains(left, "assertion count: at this point 1 transactions are committed") {
		t.Errorf("%+v", r)
	}
	lie = true
	w.snapshot()
	w.archive()
	if r = test(Recorded); r.Asserted[0].Holds || !strings.Contains(r.Asserted[0].Reason, "the source had NULL") {
		t.Errorf("%+v", r)
	}
	nothingLeft(t, w)
}
