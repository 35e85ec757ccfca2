package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// restored is a system that was brought back, and runs where it was started.
type restored struct {
	w        *world
	dir      string
	Snapshot string
	Server   *struct {
		Socket string
		Port   int
		PID    int
	}
	Files struct {
		Notes              []string
		Files, Bytes, Kept int64
		Delta              *struct {
			Compared                  string
			Since, Fork, OwnEnd       string
			Rewritten, Sampled, Files int64
		}
	}
	Notes  []string
	Phases []struct {
		Name string
		Took time.Duration `json:"tookNs"`
	}
	Recovery *struct {
		Timeline int
		Notes    []string
		RPO      time.Duration `json:"rpoNs"`
	}
}

// restore brings the system back below the world's directory.
func (w *world) restore(name string, args ...string) *restored {
	w.t.Helper()
	r := &restored{w: w, dir: filepath.Join(w.dir, name)}
	out := w.run(append([]string{"restore", system, "--to", r.dir, "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), r); err != nil {
		w.t.Fatalf("restore printed no JSON: %v\n%s", err, out)
	}
	return r
}

func (r *restored) connString(db string) string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=%s sslmode=disable", r.Server.Socket, r.Server.Port, db)
}

// query returns a query's only value, as text.
func (r *restored) query(sql string) string {
	r.w.t.Helper()
	return ask(r.w.t, r.connString("postgres"), sql)
}

// stop ends the server cleanly, and removes everything.
func (r *restored) stop() {
	r.w.t.Helper()
	r.w.program("pg_ctl", "-D", r.dir, "-m", "fast", "-w", "stop")
}

func (r *restored) remove() {
	r.w.t.Helper()
	for _, path := range []string{r.dir, r.dir + "_tablespaces"} {
		if err := os.RemoveAll(path); err != nil {
			r.w.t.Fatal(err)
		}
	}
}

func ask(t *testing.T, connString, sql string) string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, connString)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var out *string
	if err := conn.QueryRow(ctx, "SELECT ("+sql+")::text").Scan(&out); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if out == nil {
		return ""
	}
	return *out
}
