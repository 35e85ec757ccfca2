package incremental

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// writers changes the tables of the workload until it is stopped.
func writers(t *testing.T, s *pgtest.Server, seed uint64) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for n := range 3 {
		conn := s.Connect("")
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		wg.Go(func() {
			for ctx.Err() == nil {
				at := r.IntN(5000) // most of the table stays, so that it is stored in part
				q := []string{
					"UPDATE t SET n = n + 1 WHERE id BETWEEN %d AND %[1]d + 20", "DELETE FROM t WHERE id BETWEEN %d AND %[1]d + 5",
					"INSERT INTO t (v, a, n) SELECT 'w', ARRAY[%d], %[1]d FROM generate_series(1, 20)", "UPDATE shrinks SET v = 'w' WHERE i = %d %% 6000",
					"SELECT id + %d FROM t WHERE id = 7 FOR UPDATE", "DELETE FROM shrinks WHERE i > %d / 4", "INSERT INTO shrinks SELECT i, repeat('r', 300) FROM generate_series(%d, %[1]d + 100) i",
					"CHECKPOINT -- %d", "VACUUM shrinks -- %d", "VACUUM t -- %d", "CREATE TABLE IF NOT EXISTS w%d AS SELECT 1 AS i", "TRUNCATE emptied; INSERT INTO emptied VALUES (%d, 'w')",
				}[r.IntN(12)]
				_, _ = conn.Exec(context.WithoutCancel(ctx), fmt.Sprintf(q, at)) // deadlocks and locks are part of it
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// The full backup is taken while everything changes, so that its copies are of many moments. A proof is never wrong,
// and what differs is at least suspected.
func TestFullBackupOfBusyServer(t *testing.T) {
	t.Parallel()
	for _, v := range versions(t) {
		t.Run(v, func(t *testing.T) {
			s := startServer(t, v, true)
			s.Tablespace("one")
			s.Exec("", prepare...)
			s.Exec("", "VACUUM (FREEZE)")
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			top := t.TempDir()
			c := chain{dirs: []string{filepath.Join(top, "full"), filepath.Join(top, "incr")}, wal: filepath.Join(s.DataDir, "pg_wal")}
			stop := writers(t, s, seed)
			s.BaseBackup(c.dirs[0], "")
			s.Query("", "SELECT pg_sleep(0.3)")
			stop()
			s.BaseBackup(c.dirs[1], c.dirs[0])
			r := c.audit(t, true)
			differ, proven, suspected := c.compare(t, s, r)
			for p, n := range proven {
				if n > differ[p] {
					t.Errorf("%s: %d blocks differ, %d are proven to", p, differ[p], n)
				}
			}
			for p, n := range differ {
				if n > proven[p]+suspected[p] {
					t.Errorf("%s: %d blocks differ, %d are proven to, %d suspected", p, n, proven[p], suspected[p])
				}
			}
			t.Logf("differ %v, proven %v, suspected %v; restored %d, filled %d, carried %d", differ, proven, suspected, r.Restored, r.Filled, r.Backups[1].Carried)
			if t.Failed() {
				t.Log(text(r.Findings))
			}
			c.onlyChangedBlocksMatter(t, c.mostCarried(t), r)
		})
	}
}

// Everything changes all the time. Nothing is found but the known defects of the server.
func TestChainOfBusyServer(t *testing.T) {
	t.Parallel()
	for _, v := range versions(t) {
		t.Run(v, func(t *testing.T) {
			s := startServer(t, v, true)
			s.Tablespace("one")
			s.Exec("", prepare...)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			stop := writers(t, s, seed)
			top := t.TempDir()
			c := chain{wal: filepath.Join(s.DataDir, "pg_wal")}
			for i := range 3 {
				prior := ""
				if i > 0 {
					prior = c.dirs[i-1]
				}
				c.dirs = append(c.dirs, filepath.Join(top, fmt.Sprint("b", i)))
				s.BaseBackup(c.dirs[i], prior)
				s.Query("", "SELECT pg_sleep(0.2)")
			}
			stop()
			for _, withLog := range []bool{true, false} {
				r := c.audit(t, withLog)
				counts := map[string]int{}
				for _, f := range r.Findings {
					counts[fmt.Sprint(f.Kind, f.Problem, f.Proof)] += f.Count
					if f.Problem != vmClear && f.Problem != vmTruncation && f.Problem != regrown {
						t.Errorf("log %v: %s", withLog, text([]Finding{f}))
					}
				}
				t.Logf("log %v: %v; restored %d, filled %d, carried %d", withLog, counts, r.Restored, r.Filled, r.Backups[2].Carried)
			}
		})
	}
}

// mostCarried returns the relation of which the increment carries most; those that changed all over are whole.
func (c chain) mostCarried(t *testing.T) string {
	t.Helper()
	found, most := "", int64(0)
	names, _ := filepath.Glob(filepath.Join(c.dirs[1], "base", "5", prefix+"*"))
	for _, name := range names {
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() > most && !strings.Contains(name, "_") {
			found, most = "base/5/"+strings.TrimPrefix(filepath.Base(name), prefix), fi.Size()
		}
	}
	return found
}

// onlyChangedBlocksMatter takes all blocks out of the increment of a relation: each is found to be missing. Where the
// full backup has the same pages, as it does when it copied them after their last change, none is.
func (c chain) onlyChangedBlocksMatter(t *testing.T, relation string, r *Report) {
	t.Helper()
	for _, same := range []bool{false, true} {
		broken, dropped := c.clone(t), map[uint32][]byte{}
		edit(t, broken.dirs[1], partial(relation), func(b []byte) []byte {
			h := headerOf(t, b)
			for i, block := range h.blocks {
				dropped[block] = b[h.size()+int64(i)*page.Size:][:page.Size]
			}
			return encode(header{length: h.length}, nil)
		})
		reseal(t, broken.dirs[1], partial(relation))
		want := len(dropped)
		if same {
			want = 0
			edit(t, broken.dirs[0], relation, func(b []byte) []byte {
				for block, p := range dropped {
					if at := int(block) * page.Size; at+page.Size <= len(b) {
						copy(b[at:], p)
					} else {
						want++ // the full backup ends before it
					}
				}
				return b
			})
			reseal(t, broken.dirs[0], relation)
		}
		found := missing(broken.audit(t, true), relation) - missing(r, relation) // the server's defects are there before
		if found != want || len(dropped) == 0 {
			t.Errorf("of %d blocks that were taken out (the same in the full backup: %v), %d are found, want %d", len(dropped), same, found, want)
		}
	}
}

// missing returns how many blocks of a relation are found to be missing.
func missing(r *Report, relation string) (n int) {
	for _, f := range r.Findings {
		if f.Path == relation && f.Kind == MissingBlock {
			n += f.Count
		}
	}
	return n
}
