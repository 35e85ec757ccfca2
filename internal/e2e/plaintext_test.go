package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestNothingIsStoredInPlaintext searches every stored byte for what is known to be in the database. The agent is
// killed, so that its spool stays.
func TestNothingIsStoredInPlaintext(t *testing.T) {
	t.Parallel()
	secrets := []string{"kingfisher-in-a-row", "kingfisher_table", "kingfisher_database", "kingfisher-large-object", passphrase, passphrase[:12]}
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.run("repo", "init")
	agent := w.agent()
	w.server.Exec("", "CREATE DATABASE kingfisher_database")
	insert := "INSERT INTO kingfisher_table SELECT i, 'kingfisher-in-a-row ' || md5(i::text) FROM generate_series(1, 3000) AS i"
	w.server.Exec("kingfisher_database", "CREATE TABLE kingfisher_table (i int, v text)", insert, "SELECT lo_from_bytea(0, 'kingfisher-large-object')")
	w.run("snapshot", "create", system)
	w.server.Exec("kingfisher_database", insert)
	w.logReaches(1, w.server.Query("", "SELECT pg_current_wal_flush_lsn()"))
	w.server.Exec("kingfisher_database", insert)
	agent.kill9()
	w.run("repo", "check", "--read-data")

	files := 0
	for dir, known := range map[string][]string{"repository": append([]string{system}, secrets...), "state": secrets, "cache": secrets} {
		err := filepath.WalkDir(filepath.Join(w.dir, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(w.dir, path)
			if err != nil {
				return err
			}
			content := []byte(rel)
			if d.Type().IsRegular() {
				files++
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				content = append(content, b...)
			}
			for _, s := range known {
				if bytes.Contains(content, []byte(s)) {
					t.Errorf("%s has %q", rel, s)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if files < 10 {
		t.Errorf("only %d files were searched", files)
	}
	for _, s := range secrets {
		if bytes.Contains([]byte(agent.said()), []byte(s)) {
			t.Errorf("the agent's log has %q", s)
		}
	}
}
