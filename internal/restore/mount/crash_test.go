package mount_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/fusefs"
)

var (
	kills = flag.Int("mount.kills", 4, "how often the process of a mount and its server are killed under load")
	seed  = flag.Uint64("seed", 0, "repeat the random choices of the run that printed this seed")
)

const writers = 4

// load is what writers do, and what they were told.
type load struct {
	acked [writers]atomic.Int64
	total atomic.Int64
}

// run writes until the server is gone, and closes reached when so many commits were acknowledged.
func (l *load) run(t *testing.T, s *pgtest.Server, rnd *rand.Rand, reach int64, reached chan<- struct{}) *sync.WaitGroup {
	var g sync.WaitGroup
	var once sync.Once
	reach += l.total.Load()
	for n := range writers {
		seeds := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		c, err := pgx.Connect(t.Context(), s.ConnString(""))
		if err != nil {
			t.Fatal(err)
		}
		g.Go(func() {
			defer c.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // the server is gone
			for {
				i := l.acked[n].Load() + 1
				if err := l.commit(t.Context(), c, seeds, n, i); err != nil {
					return
				}
				l.acked[n].Store(i)
				if l.total.Add(1) == reach {
					once.Do(func() { close(reached) })
				}
			}
		})
	}
	c, err := pgx.Connect(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	g.Go(func() {
		defer c.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // as above
		for n := 0; ; n++ {
			for _, q := range []string{
				fmt.Sprintf("CREATE TABLE n%d AS SELECT generate_series(1, 20000) AS i", n), "CHECKPOINT", "DELETE FROM shrinks WHERE i > (SELECT max(i) * 0.9 FROM shrinks)", "VACUUM shrinks",
				fmt.Sprintf("DROP TABLE n%d", n), "INSERT INTO shrinks SELECT i, repeat('y', 100) FROM generate_series(1, 3000) AS i", "TRUNCATE refilled", "INSERT INTO refilled SELECT generate_series(1, 1000)",
			} {
				if _, err := c.Exec(t.Context(), q); err != nil {
					var exists interface{ SQLState() string }
					if errors.As(err, &exists) && exists.SQLState() == "42P07" { // of a round before
						continue
					}
					return
				}
			}
		}
	})
	return &g
}

// commit changes a row of the snapshot, and notes it.
func (l *load) commit(ctx context.Context, c *pgx.Conn, rnd *rand.Rand, writer int, n int64) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	for range 3 {
		if _, err := tx.Exec(ctx, "UPDATE t SET v = v + 1 WHERE i = $1", (rnd.IntN(30000)*writers)+writer); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, "INSERT INTO acked VALUES ($1, $2)", writer, n); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// check proves that all is there that was acknowledged, and sound.
func (l *load) check(t *testing.T, s *pgtest.Server) {
	t.Helper()
	for n := range writers {
		q := fmt.Sprintf("SELECT count(*), coalesce(max(n), 0) FROM acked WHERE w = %d", n)
		var count, most int64
		if _, err := fmt.Sscanf(s.Query("", q), "%d|%d", &count, &most); err != nil {
			t.Fatal(err)
		}
		if acked := l.acked[n].Load(); count != most || most < acked || most > acked+1 {
			t.Fatalf("writer %d: %d commits up to %d are there, and %d were acknowledged", n, count, most, acked)
		}
		l.acked[n].Store(most) // the last one was committed, and its acknowledgement lost
	}
	if got := s.Query("", "SELECT (SELECT sum(v) FROM t) - 3 * (SELECT count(*) FROM acked)"); got != "0" {
		t.Fatalf("the rows that were changed differ by %s from the commits", got)
	}
	s.Exec("", "SELECT bt_index_check(i.indexrelid, c.relpersistence = 'p' AND c.relname IN ('t_pkey', 'acked_pkey')) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relpersistence <> 't'")
	if got := s.Query("", "SELECT count(*) FROM pg_class c, LATERAL verify_heapam(c.oid) WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p'"); got != "0" {
		t.Fatalf("verify_heapam finds %s faults", got)
	}
}

// The process that serves the mount and the server are killed at random instants under load, and the power is lost: what a commit
// has acknowledged is there afterwards, and all is sound, while the data comes and when it has.
func TestCrashes(t *testing.T) {
	t.Parallel()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed=%d", *seed)
	rnd := rand.New(rand.NewPCG(*seed, 3))
	w := newWorld(t, "CREATE EXTENSION amcheck", "CREATE TABLE t AS SELECT i, 0 AS v, repeat('x', 100) AS s FROM generate_series(0, 119999) AS i", "ALTER TABLE t ADD PRIMARY KEY (i)",
		"CREATE TABLE acked (w int, n bigint, PRIMARY KEY (w, n))", "CREATE TABLE shrinks AS SELECT i, repeat('y', 100) AS s FROM generate_series(1, 50000) AS i", "CREATE TABLE refilled AS SELECT generate_series(1, 100000) AS i", "VACUUM")
	w.archive()
	w.keepLog()
	disk := newLoop(t, w.path("disk"))
	dir := filepath.Join(w.path("disk"), "m")
	var l load
	c := w.mounting("begin", dir)
	for n := range *kills {
		s := w.server(dir, [...]string{"open_datasync", "fdatasync"}[n/4%2])
		s.Start()
		s.Until(t, "", "SELECT pg_is_in_recovery()", "f")
		l.check(t, s)
		reached := make(chan struct{})
		g := l.run(t, s, rnd, 50+rnd.Int64N(1500), reached)
		<-reached
		kind := n % 4
		t.Logf("crash %d of kind %d after %d commits", n, kind, l.total.Load())
		switch kind {
		case 0: // the process alone: the server finds out by itself
			c.kill()
			s.Kill9()
		case 1: // the server alone
			s.Kill9()
		case 2: // the power
			c.kill()
			s.Kill9()
			disk.losePower(dir)
		case 3: // the server, and then the process
			s.Kill9()
			c.kill()
		}
		g.Wait()
		if kind != 1 {
			c = w.mounting("resume", dir)
		}
	}
	s := w.server(dir, "fdatasync")
	s.Start()
	l.check(t, s)
	s.Stop(pgtest.Fast)
	c.end()
	m, err := mount.Resume(t.Context(), w.r, dir, mount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Hydrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(s.Bin("pg_checksums"), "--check", "-D", dir).CombinedOutput(); err != nil {
		t.Fatalf("pg_checksums: %v\n%s", err, out)
	}
	s = w.server(dir, "fdatasync")
	s.Start()
	l.check(t, s)
	s.Stop(pgtest.Fast)
}

// keepLog puts the source's log where the restore_command finds it, and stops the source.
func (w *world) keepLog() {
	w.t.Helper()
	w.s.Kill9() // a stop would take away what recovery begins with
	if out, err := exec.Command("cp", "-r", filepath.Join(w.s.DataDir, "pg_wal"), w.path("wal")).CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	pgtest.Chown(w.t, w.path("wal"))
}

// loop is a file system in a file: what the file holds is what has come to the disk.
type loop struct {
	t     *testing.T
	image string
	at    string
	n     int
}

func newLoop(t *testing.T, at string) *loop {
	t.Helper()
	d := &loop{t: t, image: at + ".0", at: at}
	f, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(f.Truncate(1<<30), f.Close(), os.Mkdir(at, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", d.image).CombinedOutput(); err != nil {
		t.Skipf("no file system of its own can be made: %v: %s", err, out)
	}
	d.mount()
	t.Cleanup(func() {
		_ = fusefs.Detach(filepath.Join(at, "m")) // after a failure it may still be there
		_ = exec.Command("umount", "-l", at).Run()
	})
	return d
}

func (d *loop) mount() {
	d.t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.at).CombinedOutput(); err != nil {
		d.t.Skipf("no file system of its own can be mounted: %v: %s", err, out)
	}
	if err := os.Chmod(d.at, 0o755); err != nil {
		d.t.Fatal(err)
	}
}

// losePower mounts what has come to the disk, in place of what the kernel still holds. Nobody writes any more.
func (d *loop) losePower(dir string) {
	d.t.Helper()
	d.n++
	next := d.at + "." + strconv.Itoa(d.n)
	if out, err := exec.Command("cp", "--sparse=always", d.image, next).CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	if err := fusefs.Detach(dir); err != nil {
		d.t.Fatal(err)
	}
	if out, err := exec.Command("umount", "-l", d.at).CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	if err := os.Remove(d.image); err != nil {
		d.t.Fatal(err)
	}
	d.image = next
	d.mount()
}
