package capture_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// A file of transaction status that was last written long before the snapshot before is not read: here it was written, and
// set back to its time, which nobody but a test does. One that the server writes is.
func TestStatusThatNobodyWrote(t *testing.T) {
	t.Parallel()
	versions := pgtest.Versions(t)
	c := begun(t, pgtest.Options{Version: versions[len(versions)-1]}, true)
	const status = "pg_xact/0000"
	path := filepath.Join(c.s.DataDir, status)
	long := time.Now().Add(-time.Hour)
	age := func() {
		t.Helper()
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
	}
	scribble := func() {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // WriteAt has told
		if _, err := f.WriteAt([]byte{0xA5}, 8000); err != nil {
			t.Fatal(err)
		}
	}
	c.s.Exec("", "CHECKPOINT") // what is to be written of it is
	age()
	before := tree(t, c.r, c.take(t).Snapshot)[status]
	scribble()
	age()
	if after := tree(t, c.r, c.take(t).Snapshot)[status]; string(after) != string(before) {
		t.Error("a file with the size and the time of the snapshot before was read")
	}
	scribble()
	if after := tree(t, c.r, c.take(t).Snapshot)[status]; after[8000] != 0xA5 {
		t.Error("a file with another time was not read")
	}
	c.s.Exec("", "UPDATE t SET s = 'on' WHERE i % 9 = 0")
	c.changed(t)
}
