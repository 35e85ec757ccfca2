package standby

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// A standby that somebody has promoted, and that dies before its first checkpoint, looks as one on a branch that was left. What
// was written there since is nowhere else: it is not brought back to a snapshot.
func TestAPromotedServerThatDiedIsNotOverwritten(t *testing.T) {
	t.Parallel()
	source := pgtest.Start(t, pgtest.Options{})
	s := source.Standby(pgtest.Options{Conf: map[string]string{"checkpoint_timeout": "1h"}})
	source.Exec("", "CREATE TABLE book (entry text)")
	s.Until(t, "", "SELECT count(*) FROM pg_class WHERE relname = 'book'", "1")
	s.Exec("", "CHECKPOINT")
	if !overwritable(s.DataDir) {
		t.Error("a standby has something of its own")
	}
	s.Promote()
	s.Exec("", "INSERT INTO book VALUES ('after the promotion')")
	s.Kill9()

	x := &run{o: Options{Settings: Settings{System: "orders-db", Dir: s.DataDir}}, log: slog.New(slog.DiscardHandler)}
	x.tail = &tail{view: view{Way: &wal.Timelines{Timeline: 1}}}
	err := x.ended(t.Context())
	if again := new(errRebuild); !errors.As(err, &again) {
		t.Logf("the server's checkpoint was faster: %v", err)
	}
	if err := x.prepare(t.Context(), "it is on timeline 2"); err == nil || !strings.Contains(err.Error(), "no standby") {
		t.Errorf("it would be overwritten: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.DataDir, "PG_VERSION")); err != nil {
		t.Error(err)
	}
}
