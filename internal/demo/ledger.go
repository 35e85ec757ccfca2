package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// ledger writes rows from several connections, and notes each commit that the server acknowledged.
type ledger struct {
	conn     string
	disaster time.Time

	cancel  context.CancelFunc
	writers *errgroup.Group
	mu      sync.Mutex // guards commits
	commits []commit
}

// commit is a row that the server said is there for ever.
type commit struct {
	writer, n int
	amount    int
	at        time.Time // when the acknowledgement arrived
}

// prepare makes the tables, and returns the server's version.
func (l *ledger) prepare(ctx context.Context, rows int) (version string, err error) {
	conn, err := pgx.Connect(ctx, l.conn)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // each statement was checked
	for _, sql := range []string{
		"CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, note text NOT NULL)",
		fmt.Sprintf("INSERT INTO account SELECT i, 0, md5(i::text) || repeat(' ', 60) FROM generate_series(1, %d) AS i", rows),
		"CREATE TABLE ledger (writer int, n int, amount int NOT NULL, account int NOT NULL, PRIMARY KEY (writer, n))",
		"CHECKPOINT",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return "", err
		}
	}
	return version, conn.QueryRow(ctx, "SELECT current_setting('server_version')").Scan(&version)
}

// start begins to write. A writer ends when its connection does.
func (l *ledger) start(ctx context.Context, writers int) error {
	ctx, l.cancel = context.WithCancel(ctx)
	l.writers = &errgroup.Group{}
	var accounts int
	conn, err := pgx.Connect(ctx, l.conn)
	if err != nil {
		return err
	}
	err = conn.QueryRow(ctx, "SELECT count(*) FROM account").Scan(&accounts)
	if err := conn.Close(ctx); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	for w := range writers {
		conn, err := pgx.Connect(ctx, l.conn)
		if err != nil {
			return err
		}
		l.writers.Go(func() error {
			defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server is dead by then
			for n := 1; l.write(ctx, conn, w, n, accounts) == nil; n++ {
			}
			return nil
		})
	}
	return nil
}

// write commits one transaction and notes it.
func (l *ledger) write(ctx context.Context, conn *pgx.Conn, writer, n, accounts int) error {
	amount, account := rand.IntN(1000), 1+rand.IntN(accounts)
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE account SET balance = balance + $1 WHERE id = $2", amount, account); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO ledger VALUES ($1, $2, $3, $4)", writer, n, amount, account)
		return err
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits = append(l.commits, commit{writer, n, amount, time.Now()})
	return nil
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.commits)
}

// wait waits until every writer has met its end.
func (l *ledger) wait() { _ = l.writers.Wait() } // they end by the server's death

// stop ends the writers.
func (l *ledger) stop() {
	if l.cancel != nil {
		l.cancel()
		l.wait()
	}
}

// compare reads the recovered table and holds every acknowledged commit against it.
func (l *ledger) compare(ctx context.Context, connString string, r *Result) error {
	conn, err := pgx.Connect(ctx, connString)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only read
	type key struct{ writer, n int }
	have := map[key]int{}
	rows, err := conn.Query(ctx, "SELECT writer, n, amount FROM ledger")
	if err != nil {
		return err
	}
	var k key
	var amount int
	if _, err := pgx.ForEachRow(rows, []any{&k.writer, &k.n, &amount}, func() error { have[k] = amount; return nil }); err != nil {
		return err
	}
	oldestLost := l.disaster
	for _, c := range l.commits {
		amount, ok := have[key{c.writer, c.n}]
		delete(have, key{c.writer, c.n})
		switch {
		case !ok:
			r.Lost++
			if c.at.Before(oldestLost) {
				oldestLost = c.at
			}
		case amount != c.amount:
			r.Wrong++
		default:
			r.Recovered++
		}
	}
	r.Unconfirmed, r.RPO = len(have), l.disaster.Sub(oldestLost)
	// Each transaction changed an account by what it wrote into the ledger: a torn recovery would not add up.
	var balances, ledger int64
	err = conn.QueryRow(ctx, "SELECT (SELECT sum(balance) FROM account), (SELECT sum(amount) FROM ledger)").Scan(&balances, &ledger)
	if err == nil && balances != ledger {
		err = fmt.Errorf("the accounts hold %d, the ledger says %d: the recovered database is not consistent", balances, ledger)
	}
	return err
}
