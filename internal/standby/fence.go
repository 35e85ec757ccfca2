package standby

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
)

const (
	askPatience = 3 * time.Second // that a source may take to say that it lives
	onTheWay    = time.Second     // that what a server has sent may still come when it is gone
)

// noPrimary refuses where the source accepts writes, as the configuration names it, or as the log comes from it: two primaries would
// share one history.
func (x *run) noPrimary(ctx context.Context) error {
	began := time.Now()
	at := x.sourceWrites(ctx)
	if at == "" {
		at = x.tail.stillStreams(ctx, began)
	}
	if at == "" {
		return context.Cause(ctx)
	}
	return &dr.Failure{
		What:   fmt.Sprintf("promote the standby of %s: the source accepts writes", x.o.System),
		Reason: at + "; with two primaries what is written to one of them is lost",
		Next:   "stop the source and see that it does not come back; for a copy beside it on purpose, add --beside-primary",
	}
}

// sourceWrites says where the source answers as a primary; empty where it does not. Every server of both connections is asked.
func (x *run) sourceWrites(ctx context.Context) string {
	var asked sync.WaitGroup
	var mu sync.Mutex // guards found
	var found []string
	ask := func(dsn string, one func(context.Context, cluster.Host) string) {
		hosts, err := cluster.Hosts(dsn)
		if dsn == "" || err != nil {
			return
		}
		for _, h := range hosts {
			asked.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, askPatience)
				defer cancel()
				if at := one(ctx, h); at != "" {
					mu.Lock()
					found = append(found, at)
					mu.Unlock()
				}
			})
		}
	}
	ask(x.sys.Postgres.Connection.DSN(), x.configuredWrites)
	ask(x.o.Primary.DSN(), x.primaryWrites)
	asked.Wait()
	slices.Sort(found)
	return strings.Join(found, "; ")
}

// refuses says of an error of connecting that a server lives there, and answers with it: it may have too many connections, or be
// starting. What it is cannot be asked. A pooler without a server behind it says that the connection failed (class 08).
func refuses(which string, err error) string {
	answer := new(cluster.ServerError)
	if !errors.As(err, &answer) || strings.HasPrefix(answer.PgError.Code, "08") {
		return "" // it is gone, as it should
	}
	return fmt.Sprintf("a server lives at %s, and refuses to say whether it does: %v", which, answer)
}

const (
	theConfigured = "its configured connection"
	theNamed      = "its connection of --primary"
)

// configuredWrites says whether a server of the configured connection is the source, as a primary.
func (x *run) configuredWrites(ctx context.Context, h cluster.Host) string {
	conn, err := h.Connect(ctx)
	if err != nil {
		return refuses(theConfigured, err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	info, err := cluster.Identify(ctx, conn)
	// Where its directory lies says nothing: hosts use the same path. A connection that leads to the standby itself finds a recovery.
	if err != nil || info.InRecovery || info.SystemID != x.tail.system.ID {
		return "" // it is gone, as it should
	}
	return fmt.Sprintf("it answers at %s, on timeline %d at %s", theConfigured, info.Timeline, info.LSN)
}

// primaryWrites is the same of --primary, where only the protocol of replication need be allowed. A server before version 14 does not
// tell there whether it is a standby itself: it counts as none.
func (x *run) primaryWrites(ctx context.Context, h cluster.Host) string {
	conn, err := h.ConnectReplication(ctx)
	if err != nil {
		return refuses(theNamed, err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	sys, err := stream.Identify(ctx, conn)
	if err != nil || sys.ID != x.tail.system.ID {
		return ""
	}
	if writes, err := acceptsWrites(ctx, conn); err != nil || !writes {
		return ""
	}
	return fmt.Sprintf("it answers at %s, on timeline %d at %s", theNamed, sys.Timeline, sys.Flushed)
}

// acceptsWrites tells whether a server is no standby, or does not know the question.
func acceptsWrites(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	recovers, err := stream.InRecovery(ctx, conn)
	if unknown := new(cluster.ServerError); errors.As(err, &unknown) {
		return true, nil
	}
	return !recovers, err
}

// stillStreams says that the log comes from a primary that writes: it has said something when what was on its way at the beginning
// has come. One that has gone without a word ends the stream once it has been silent for as long as may be (silentLimit).
func (t *tail) stillStreams(ctx context.Context, began time.Time) string {
	again := time.NewTicker(replayLook)
	defer again.Stop()
	for {
		v, _ := t.state()
		switch {
		case !v.Streams || !v.Writes:
			return ""
		case v.Heard.Sub(began) > onTheWay:
			return "the log still comes from " + theNamed
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return ""
		}
	}
}
