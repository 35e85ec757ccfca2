package capture

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func reopenSpool(t *testing.T, s *Spool) *Spool {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenSpool(s.dir, s.keys, "orders-db", 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}

func appendLog(t *testing.T, s *Spool, start, end wal.LSN) {
	t.Helper()
	if got, err := s.Append(1, start, testLog(start, end), time.Unix(1e9, 0)); err != nil || got != end {
		t.Fatalf("appended up to %s, %v", got, err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
}

func checkSpool(t *testing.T, s *Spool, start, end wal.LSN) {
	t.Helper()
	got := make([]byte, end-start)
	if err := s.Read(1, start, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, testLog(start, end)) {
		t.Fatalf("%s to %s comes back with other bytes", start, end)
	}
}

func TestSpoolKeepsTheLog(t *testing.T) {
	r, _ := openTestLog(t, storetest.NewMemory())
	s := openTestSpool(t, r, 0)
	if _, err := OpenSpool(s.dir, r.Keys(), "orders-db", 0); err == nil {
		t.Error("a spool that is in use was opened")
	}
	const start = wal.LSN(20*mib + 24)
	appendLog(t, s, start, start+3*mib)
	appendLog(t, s, start+3*mib, start+4*mib)
	s = reopenSpool(t, s)
	appendLog(t, s, start+4*mib, start+4*mib+100) // into a new file: nobody appends to another's
	appendLog(t, s, start+4*mib-50, start+5*mib)  // overlapping
	if got := s.Ranges(); len(got) != 1 || got[0].Start != start || got[0].End != start+5*mib {
		t.Fatalf("the spool holds %+v", got)
	}
	s = reopenSpool(t, s)
	checkSpool(t, s, start, start+5*mib)
	checkSpool(t, s, start+4*mib-70, start+4*mib+200)
	if err := s.PutFile("00000002.history", []byte("1\t0/3000000\tx\n")); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(1, start+5*mib); err != nil {
		t.Fatal(err)
	}
	if s.Size() != 0 || len(s.Ranges()) != 0 {
		t.Errorf("after all was dropped %s are left: %+v", s.Size(), s.Ranges())
	}
	if files, err := s.Files(); err != nil || string(files["00000002.history"]) != "1\t0/3000000\tx\n" {
		t.Errorf("files: %q, %v", files, err)
	}
}

func TestSpoolShowsNothing(t *testing.T) {
	r, _ := openTestLog(t, storetest.NewMemory())
	s := openTestSpool(t, r, 0)
	known := bytes.Repeat([]byte("a row that nobody else may read; "), 1000)
	if _, err := s.Append(1, 0x1000, known, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.PutFile("00000002.history", known), s.Sync()); err != nil {
		t.Fatal(err)
	}
	paths, _ := filepath.Glob(filepath.Join(s.dir, "*"))
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, known[:16]) || bytes.Contains([]byte(p), []byte("orders")) {
			t.Errorf("%s shows what it must hide", p)
		}
	}
}

// A crash leaves the file of the spool cut at any place; a flipped bit ends it.
func TestSpoolReadsUpToTheLastWholeFrame(t *testing.T) {
	r, _ := openTestLog(t, storetest.NewMemory())
	s := openTestSpool(t, r, 0)
	const start = wal.LSN(mib)
	ends := []wal.LSN{start}
	sizes := []int64{0}
	for i := range 4 {
		end := start + wal.LSN(i+1)*100
		appendLog(t, s, ends[i], end)
		ends, sizes = append(ends, end), append(sizes, int64(s.Size()))
	}
	path := filepath.Join(s.dir, s.list()[0].name())
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check := func(content []byte, want wal.LSN) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := OpenSpool(s.dir, s.keys, "orders-db", 0)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close() //nolint:errcheck // only read
		got := start
		if ranges := again.Ranges(); len(ranges) > 0 {
			got = ranges[0].End
			checkSpool(t, again, start, got)
		}
		if got != want {
			t.Fatalf("of %d bytes the log up to %s is read, want %s", len(content), got, want)
		}
	}
	for n := range len(whole) + 1 {
		want := start
		for i, size := range sizes {
			if int64(n) >= size {
				want = ends[i]
			}
		}
		check(whole[:n], want)
	}
	for n := int(sizes[1]); n < int(sizes[2]); n++ { // the second frame
		broken := bytes.Clone(whole)
		broken[n] ^= 0x10
		check(broken, ends[1])
	}
}
