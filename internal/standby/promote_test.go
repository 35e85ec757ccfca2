package standby

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/walsender"
)

// Two hosts most often have their data in the same path: it does not tell one server from another.
func TestThePrimaryMayHaveTheSamePath(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{})
	conn, err := cluster.Connect(t.Context(), s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // only asked
	info, err := cluster.Identify(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	x := &run{o: Options{Settings: Settings{System: "orders-db", Dir: s.DataDir}}, tail: &tail{system: walsender.System{ID: info.SystemID}}}
	x.sys.Postgres.Connection = config.Connection(s.ConnString("postgres"))
	if x.noPrimary(t.Context()) == nil {
		t.Error("a standby would be promoted beside it")
	}
	x.tail.system.ID++
	if err := x.noPrimary(t.Context()); err != nil {
		t.Errorf("another cluster is in the way: %v", err)
	}
}
