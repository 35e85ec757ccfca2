package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// testLog returns the bytes of an invented log: each depends on its position only.
func testLog(start, end wal.LSN) []byte {
	b := make([]byte, 0, end-start+8)
	for at := start &^ 7; at < end; at += 8 {
		x := uint64(at) * 0x9E3779B97F4A7C15
		x ^= x >> 29
		if x%3 == 0 {
			x = 0 // so that there is something to compress
		}
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b[start&7:][:end-start]
}

// tryTestLog makes a repository in st, or opens the one that is there.
func tryTestLog(t testing.TB, st store.Store) (*repo.Repository, *repo.Log, error) {
	t.Helper()
	const passphrase = "correct horse battery staple"
	to, err := seal.PassphraseRecipient("test", passphrase, 1)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := seal.SignerFromSeed(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	o := repo.Options{Signer: signer, CacheDir: t.TempDir()}
	r, err := repo.Open(t.Context(), st, seal.Credentials{Passphrase: passphrase}, o)
	if err != nil {
		r, err = repo.Init(t.Context(), st, []seal.Recipient{to}, o)
	}
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { _ = r.Close() })
	log := r.Log("orders-db")
	return r, log, log.Register(t.Context(), repo.DefaultGroup)
}

func openTestLog(t testing.TB, st store.Store) (*repo.Repository, *repo.Log) {
	t.Helper()
	r, log, err := tryTestLog(t, st)
	if err != nil {
		t.Fatal(err)
	}
	return r, log
}

func openTestSpool(t testing.TB, r *repo.Repository, limit dr.Bytes) *Spool {
	t.Helper()
	s, err := OpenSpool(t.TempDir(), r.Keys(), "orders-db", limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// checkTestLog fails unless the repository holds the invented log of timeline 1 from start to end.
func checkTestLog(t testing.TB, log *repo.Log, start, end wal.LSN) {
	t.Helper()
	extents, err := log.Extents(t.Context(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	ranges := repo.Merge(extents)
	if start == end && len(ranges) == 0 {
		return
	}
	if len(ranges) == 0 || ranges[0].Start != uint64(start) || ranges[0].End < uint64(end) {
		t.Fatalf("stored is %x, want %s to %s", ranges, start, end)
	}
	reader := log.Reader()
	for _, e := range extents {
		b, _, err := reader.Read(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, testLog(wal.LSN(e.Start), wal.LSN(e.End))) {
			t.Fatalf("extent %x-%x has other bytes than were written", e.Start, e.End)
		}
	}
}

// writeTestLog writes the invented log in messages as a server sends them.
func writeTestLog(ctx context.Context, w *LogWriter, start, end wal.LSN) error {
	for at := start; at < end; {
		stop := min(at+128<<10, end)
		if err := w.Write(ctx, LogArrival{1, at, testLog(at, stop), time.Now(), end}); err != nil {
			return err
		}
		at = stop
	}
	return nil
}

// runWriter runs w; the result's Finish ends it and returns Run's error.
func runWriter(ctx context.Context, w *LogWriter) (finish func() error) {
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return func() error {
		w.Finish()
		return <-done
	}
}

const mib = 1 << 20

func TestWriterStoresTheTailEachInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := storetest.NewFaulty(storetest.NewMemory())
		_, log := openTestLog(t, faulty)
		w := NewLogWriter(log, LogOptions{Interval: time.Second})
		finish := runWriter(t.Context(), w)
		const begin = wal.LSN(64*mib + 4096)
		if err := w.Begin(t.Context(), 1, begin, nil, 0); err != nil {
			t.Fatal(err)
		}
		at := begin
		for i := range 200 {
			if err := writeTestLog(t.Context(), w, at, at+1000); err != nil {
				t.Fatal(err)
			}
			at += 1000
			time.Sleep(time.Second + time.Millisecond)
			synctest.Wait()
			if got := w.Status().Stored; got != at {
				t.Fatalf("after interval %d %s is stored, want %s", i, got, at)
			}
			extents, err := log.Extents(t.Context(), 1, 0)
			if err != nil {
				t.Fatal(err)
			}
			if len(extents) > 2*mergeAt {
				t.Fatalf("after interval %d the tail has %d pieces", i, len(extents))
			}
		}
		checkTestLog(t, log, begin, at)

		time.Sleep(10 * time.Minute) // idle: nothing is stored, and no clock tells anything new
		synctest.Wait()
		before := len(faulty.Calls())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(faulty.Calls()) - before; n != 0 {
			t.Errorf("%d requests while nothing happened: %v", n, faulty.Calls()[before:])
		}
		// The source says that it is idle: marks tell how long nothing was committed, once a minute.
		before = len(faulty.Calls())
		for range 600 {
			if err := w.Write(t.Context(), LogArrival{Clock: time.Now(), End: at}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		puts := 0
		for _, c := range faulty.Calls()[before:] {
			if c.Op == "put" {
				puts++
			}
		}
		if puts < 9 || puts > 11 {
			t.Errorf("%d marks in ten idle minutes, want 10", puts)
		}
		m, ok, err := log.Mark(t.Context(), 1)
		if err != nil || !ok || wal.LSN(m.LSN) != at || time.Since(m.Source) > 62*time.Second {
			t.Errorf("the mark is %+v, %v, %v", m, ok, err)
		}
		if err := finish(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWriterInSynchronousModeDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, log := openTestLog(t, storetest.NewMemory())
		var acked wal.LSN
		w := NewLogWriter(log, LogOptions{Synchronous: true, Durable: func(_ wal.TimelineID, l wal.LSN) { acked = l }})
		finish := runWriter(t.Context(), w)
		if err := w.Begin(t.Context(), 1, mib, nil, 0); err != nil {
			t.Fatal(err)
		}
		for at := wal.LSN(mib); at < 2*mib; at += 5000 {
			if err := writeTestLog(t.Context(), w, at, at+5000); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // no time passes here
			if acked != at+5000 {
				t.Fatalf("acknowledged is %s, want %s", acked, at+5000)
			}
		}
		if err := finish(); err != nil {
			t.Fatal(err)
		}
	})
}

// While the repository refuses everything, the log goes to the spool, nothing is acknowledged, and reading stops only when
// the spool is full; when it answers again nothing is missing.
func TestWriterOutlivesARepositoryThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := storetest.NewFaulty(storetest.NewMemory())
		r, log := openTestLog(t, faulty)
		spool := openTestSpool(t, r, 16*mib)
		var acked wal.LSN
		w := NewLogWriter(log, LogOptions{Spool: spool, Durable: func(_ wal.TimelineID, l wal.LSN) { acked = l }})
		finish := runWriter(t.Context(), w)
		const begin, end = wal.LSN(3 * mib), wal.LSN(99 * mib)
		if err := w.Begin(t.Context(), 1, begin, nil, 0); err != nil {
			t.Fatal(err)
		}
		faulty.SetFaults(storetest.Fault{Op: "put", When: storetest.Before, Kind: store.Full})
		written := make(chan error, 1)
		go func() { written <- writeTestLog(t.Context(), w, begin, end) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		st := w.Status()
		if !st.Blocked() || acked > begin || st.ReceivedLSN >= end || st.ReceivedLSN < begin+16*mib {
			t.Fatalf("after a minute without a repository: acknowledged %s, %+v", acked, st)
		}
		var full *SpoolFullError
		if !errors.As(st.SpoolErr, &full) {
			t.Errorf("the spool says %v", st.SpoolErr)
		}
		faulty.SetFaults()
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if err := finish(); err != nil {
			t.Fatal(err)
		}
		if acked != end {
			t.Errorf("acknowledged is %s, want %s", acked, end)
		}
		checkTestLog(t, log, begin, end)
		if n := spool.Size(); n != 0 {
			t.Errorf("the spool keeps %s", n)
		}
	})
}

var errNotOpened = errors.New("the repository was not opened")

// Every call to the store fails once, before and after its effect; the writer goes on, and what it acknowledged is there.
func TestWriterMeetsEveryFault(t *testing.T) {
	const begin, end = wal.LSN(16*mib - 512<<10), wal.LSN(16*mib + 512<<10) // over a block's end
	storetest.EachFault(t, storetest.Sweep{
		Prepare: func(t *testing.T, s store.Store) { openTestLog(t, s) },
		Run: func(t *testing.T, s store.Store) error {
			_, log, err := tryTestLog(t, s)
			if err != nil {
				return errNotOpened
			}
			w := NewLogWriter(log, LogOptions{Interval: 20 * time.Millisecond})
			finish := runWriter(t.Context(), w)
			if err := w.Begin(t.Context(), 1, begin, nil, 0); err != nil {
				return err
			}
			return errors.Join(writeTestLog(t.Context(), w, begin, end), finish())
		},
		Check: func(t *testing.T, s store.Store, err error) {
			if errors.Is(err, errNotOpened) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, log := openTestLog(t, s)
			checkTestLog(t, log, begin, end)
		},
		Kind: store.Other,
	})
}

// A clean stop cuts off the mark that is being stored, and writes it at the end: nobody is warned of that.
func TestCleanStopWarnsOfNoMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := storetest.NewFaulty(storetest.NewMemory())
		_, log := openTestLog(t, faulty)
		var said bytes.Buffer
		w := NewLogWriter(log, LogOptions{Logger: slog.New(slog.NewTextHandler(&said, nil))})
		finish := runWriter(t.Context(), w)
		if err := w.Begin(t.Context(), 1, mib, nil, 0); err != nil {
			t.Fatal(err)
		}
		faulty.SetFaults(storetest.Fault{
			Op: "put", Match: func(name string) bool { return strings.HasPrefix(name, "marks/") }, When: storetest.Stall, Once: true,
		})
		if err := writeTestLog(t.Context(), w, mib, mib+1000); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // the tail is stored, and its mark hangs
		synctest.Wait()
		if err := finish(); err != nil {
			t.Fatal(err)
		}
		if said.Len() > 0 || faulty.Fired() != 1 {
			t.Errorf("%d marks were cut off, and the log says %s", faulty.Fired(), said.String())
		}
		m, ok, err := log.Mark(t.Context(), 1)
		if err != nil || !ok || wal.LSN(m.LSN) != mib+1000 {
			t.Errorf("the mark is %+v, %v, %v", m, ok, err)
		}
	})
}
