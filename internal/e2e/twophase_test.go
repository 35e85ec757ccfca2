package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestPreparedTransactionsComeBack takes snapshots of every kind while transactions are prepared and committed, and one
// checkpoint follows the other: files of transactions come and go while they are read, some from behind the checkpoint at which
// the snapshot begins. Each of them has to bring back every transaction that was prepared in the end. PostgreSQL 17 and 18 alone
// would lose some; up to 16 they would not.
func TestPreparedTransactionsComeBack(t *testing.T) {
	t.Parallel()
	all := pgtest.Versions(t)
	w := newWorld(t, pgtest.Options{Version: all[len(all)-1], Conf: map[string]string{"max_prepared_transactions": "2000", "max_wal_size": "1GB"}})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE TABLE promises (id int)")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	repeat := func(statements func(n int) []string) {
		wg.Go(func() {
			c, err := pgx.Connect(t.Context(), w.server.ConnString(""))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close(t.Context()) //nolint:errcheck // the server is stopped next
			for n := 0; ctx.Err() == nil; n++ {
				for _, q := range statements(n) {
					if _, err := c.Exec(t.Context(), q); err != nil {
						t.Errorf("%s: %v", q, err)
						return
					}
				}
				pause(2 * time.Millisecond)
			}
		})
	}
	for k := range 2 {
		repeat(func(n int) []string {
			q := []string{"BEGIN", fmt.Sprintf("INSERT INTO promises VALUES (%d)", n), fmt.Sprintf("PREPARE TRANSACTION 'p%d-%d'", k, n)}
			if n%10 != 1 && n > 0 { // of those before, one in ten is never committed
				q = append(q, fmt.Sprintf("COMMIT PREPARED 'p%d-%d'", k, n-1))
			}
			return q
		})
	}
	repeat(func(int) []string { return []string{"CHECKPOINT"} })
	for range 2 {
		w.run("snapshot", "create", system, "--full-scan")
		w.run("snapshot", "create", system)
	}
	cancel()
	wg.Wait()
	w.until("the agent is connected", func() bool {
		return w.server.Query("", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
	})
	const prepared = "SELECT string_agg(gid, ' ' ORDER BY gid) FROM pg_prepared_xacts"
	source := w.server.Query("", prepared)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	for i, list := 0, w.snapshots(); i < len(list); i++ {
		last := list[len(list)-1-i]
		r := w.restore(fmt.Sprintf("back%d", i), "--start")
		if got := r.query(prepared); got != source || r.Snapshot != last.ID {
			t.Errorf("restored from %s, of %s, there are\n%s\nand there were\n%s", r.Snapshot, last.ID, got, source)
		}
		r.stop()
		r.remove()
		w.run("snapshot", "forget", system, last.ID, "--confirm", system)
	}
}
