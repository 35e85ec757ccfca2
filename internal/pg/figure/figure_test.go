package figure

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

func TestRecord(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{Version: "15"})
	s.Exec("", "CREATE TABLE orders AS SELECT i, now() AS at FROM generate_series(1, 100) AS i", "CREATE TABLE again AS SELECT * FROM orders ORDER BY i DESC")
	connect := func(ctx context.Context, db string) (*pgx.Conn, error) { return pgx.Connect(ctx, s.ConnString(db)) }
	r := Record(t.Context(), []Question{
		{Name: "count", Database: "postgres", SQL: "SELECT count(*) FROM orders"},
		{Name: "digest", Database: "postgres", Table: "public.orders"},
		{Name: "broken", Database: "postgres", SQL: "SELECT 1/0"},
		{Name: "write", Database: "postgres", SQL: "DELETE FROM orders RETURNING 1"},
		{Name: "two", Database: "postgres", SQL: "SELECT 1, 2"},
		{Name: "null", Database: "postgres", SQL: "SELECT NULL"},
		{Name: "same", Database: "postgres", Table: "public.again"},
		{Name: "nowhere", Database: "nowhere", SQL: "SELECT 1"},
	}, 0, connect)
	d := r.Of("postgres")
	if d == nil || len(d.Answers) != 7 || d.LSN == 0 || r.LSN() != d.LSN {
		t.Fatalf("%+v", r)
	}
	if v := d.Answers[0].Value; v == nil || *v != "100" {
		t.Errorf("count: %+v", d.Answers[0])
	}
	if a, b := d.Answers[1].Value, d.Answers[6].Value; a == nil || b == nil || *a != *b {
		t.Errorf("two tables with the same rows have the digests %v and %v", a, b)
	}
	for _, i := range []int{2, 3, 4} {
		if a := d.Answers[i]; a.Error == "" || a.Value != nil {
			t.Errorf("%+v", a)
		}
	}
	if a := d.Answers[5]; a.Error != "" || a.Value != nil {
		t.Errorf("%+v", a)
	}
	if a := r.Of("nowhere").Answers; len(a) != 1 || a[0].Error == "" {
		t.Errorf("%+v", a)
	}
	conn, err := connect(t.Context(), "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for want := range int64(2) {
		if n, err := CommittedBeyond(t.Context(), conn, d.MVCC); err != nil || n != want {
			t.Errorf("%d transactions beyond (%v), want %d", n, err, want)
		}
		s.Exec("", "INSERT INTO orders VALUES (101, now())")
	}
}
