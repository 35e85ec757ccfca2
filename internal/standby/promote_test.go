package standby

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
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

// A server that answers, though with a refusal, has not gone; nor has one of several hosts that is not the first.
func TestAPrimaryThatRefusesUsLives(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{})
	s.Exec("", "CREATE ROLE crowded LOGIN CONNECTION LIMIT 0")
	d, err := readControl(t.Context(), s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	several := fmt.Sprintf(" host=%s,%s port=%d,%d", t.TempDir(), s.Socket, s.Port, s.Port)
	for _, c := range []struct{ name, configured, primary, want string }{
		{name: "too many connections", configured: s.ConnString("postgres") + " user=crowded", want: "too many connections"},
		{name: "too many connections of --primary", primary: s.ConnString("none") + " user=crowded", want: "refuses to say"},
		{name: "the second host", configured: s.ConnString("postgres") + several, want: "answers at its configured connection"},
		{name: "the second host of --primary", primary: s.ConnString("postgres") + several, want: "answers at its connection of --primary"},
		{name: "nobody is there", configured: s.ConnString("postgres") + " host=" + t.TempDir()},
	} {
		x := &run{tail: &tail{system: walsender.System{ID: d.SystemID}}}
		x.sys.Postgres.Connection, x.o.Primary = config.Connection(c.configured), config.Connection(c.primary)
		err := x.noPrimary(t.Context())
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// While the log comes from a primary that writes nobody is promoted, although no new connection is taken there.
func TestAPrimaryThatStreamsLives(t *testing.T) {
	t.Parallel()
	w := newStillWorld(t)
	p := w.source(&wal.Timelines{Timeline: 1})
	p.grow(5000)
	w.follow()
	w.send(1, 0).has(5000)
	x := &run{tail: w.tail}
	if err := x.noPrimary(t.Context()); err == nil || !strings.Contains(err.Error(), "still comes from") {
		t.Errorf("beside a primary that streams: %v", err)
	}
	p.stop()
	if err := x.noPrimary(t.Context()); err != nil {
		t.Errorf("after it: %v", err)
	}
}
