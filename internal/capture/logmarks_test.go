package capture

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

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
