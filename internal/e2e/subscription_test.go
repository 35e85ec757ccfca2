package e2e

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestSubscriptionsOfACopyRest restores a subscriber beside itself: the copy leaves the publisher and the original's slot
// alone, and says so. With --keep-subscriptions it takes the original's place.
func TestSubscriptionsOfACopyRest(t *testing.T) {
	t.Parallel()
	publisher := pgtest.Start(t, pgtest.Options{Version: "15", Conf: map[string]string{"wal_level": "logical"}})
	w := newWorld(t, pgtest.Options{Version: "15"})
	for _, s := range []*pgtest.Server{publisher, w.server} {
		s.Exec("", "CREATE TABLE news (id int PRIMARY KEY)")
	}
	publisher.Exec("", "CREATE PUBLICATION news FOR TABLE news", "INSERT INTO news VALUES (1)")
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE SUBSCRIPTION daily CONNECTION '"+publisher.ConnString("")+"' PUBLICATION news")
	w.server.Until(t, "", "SELECT count(*) FROM news", "1")
	w.run("snapshot", "create", system)
	const active = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'daily' AND active"
	w.until("the original is subscribed", func() bool { return publisher.Query("", active) != "" })
	before := publisher.Query("", active)
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))

	copied := w.restore("copy", "--start", "-o", "json")
	if got := copied.query("SELECT count(*) || ' ' || (SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical%') FROM news"); got != "1 0" {
		t.Errorf("the copy has %q rows and workers, want 1 and none", got)
	}
	if !strings.Contains(strings.Join(copied.Recovery.Notes, "\n"), "daily") {
		t.Errorf("the notes do not name the subscription: %q", copied.Recovery.Notes)
	}
	publisher.Exec("", "INSERT INTO news VALUES (2)")
	w.server.Until(t, "", "SELECT count(*) FROM news", "2")
	if got := publisher.Query("", active); got != before {
		t.Errorf("the slot's user changed from %s to %s", before, got)
	}
	if got := copied.query("SELECT count(*) FROM news"); got != "1" {
		t.Errorf("the copy has %s rows", got)
	}
	copied.stop()

	w.server.Stop(pgtest.Fast)
	agent.stop()
	successor := w.restore("successor", "--start", "--keep-subscriptions", "-o", "json")
	publisher.Exec("", "INSERT INTO news VALUES (3)")
	w.until("the successor receives the news", func() bool { return successor.query("SELECT count(*) FROM news") == "3" })
	if !strings.Contains(strings.Join(successor.Recovery.Notes, "\n"), "daily run") {
		t.Errorf("the notes do not say that the subscription runs: %q", successor.Recovery.Notes)
	}
	successor.stop()
}
