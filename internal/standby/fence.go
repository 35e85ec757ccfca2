package standby

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
)

// askPatience is how long a source may take to say that it lives.
const askPatience = 3 * time.Second

// noPrimary refuses where the source accepts writes, as the configuration names it, or as the log comes from it: two primaries would
// share one history.
func (x *run) noPrimary(ctx context.Context) error {
	at := x.configuredWrites(ctx)
	if at == "" {
		at = x.primaryWrites(ctx)
	}
	if at == "" {
		return nil
	}
	return &dr.Failure{
		What:   fmt.Sprintf("promote the standby of %s: the source accepts writes", x.o.System),
		Reason: fmt.Sprintf("it answers at %s; with two primaries what is written to one of them is lost", at),
		Next:   "stop the source and see that it does not come back; for a copy beside it on purpose, add --beside-primary",
	}
}

// configuredWrites says where the source answers as a primary; empty where it does not.
func (x *run) configuredWrites(ctx context.Context) string {
	dsn := x.sys.Postgres.Connection.DSN()
	if dsn == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	conn, err := cluster.Connect(ctx, dsn)
	if err != nil {
		return "" // it is gone, as it should
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	info, err := cluster.Identify(ctx, conn)
	// Where its directory lies says nothing: hosts use the same path. A connection that leads to the standby itself finds a recovery.
	if err != nil || info.InRecovery || info.SystemID != x.tail.system.ID {
		return "" // as above
	}
	return fmt.Sprintf("its configured connection, on timeline %d at %s", info.Timeline, info.LSN)
}

// primaryWrites is the same of --primary, where only the protocol of replication need be allowed. A server before version 14 does not
// tell there whether it is a standby itself: it counts as none.
func (x *run) primaryWrites(ctx context.Context) string {
	if x.o.Primary == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	conn, err := cluster.ConnectReplication(ctx, x.o.Primary.DSN())
	if err != nil {
		return ""
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	sys, err := stream.Identify(ctx, conn)
	if err != nil || sys.ID != x.tail.system.ID {
		return ""
	}
	recovers, err := stream.InRecovery(ctx, conn)
	if unknown := new(cluster.ServerError); err != nil && !errors.As(err, &unknown) || recovers {
		return ""
	}
	return fmt.Sprintf("its connection of --primary, on timeline %d at %s", sys.Timeline, sys.Flushed)
}
