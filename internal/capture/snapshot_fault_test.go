package capture_test

import (
	"errors"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// Every call that a snapshot makes to the store fails once, before its effect and after it: the snapshot says so or
// exists, and the next one succeeds in a clean repository.
func TestSnapshotEveryFault(t *testing.T) {
	t.Parallel()
	for name, scan := range map[string]capture.Scan{"changed": capture.ScanChanged, "full": capture.ScanFull} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			snapshotEveryFault(t, scan)
		})
	}
}

func snapshotEveryFault(t *testing.T, scan capture.Scan) {
	// The server keeps its log: without it each snapshot would wait some seconds for what may come into the repository.
	s := pgtest.Start(t, pgtest.Options{Version: "15", Checksums: true, InitArgs: []string{"--wal-segsize=1"}, Conf: map[string]string{"wal_keep_size": "2GB"}})
	s.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i", "CHECKPOINT")
	to, err := seal.PassphraseRecipient("test", "correct horse battery staple", 1)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	options := repo.Options{Signer: signer}
	open := func(t *testing.T, st store.Store) (*repo.Repository, error) {
		return repo.Open(t.Context(), st, seal.Credentials{Passphrase: "correct horse battery staple"}, options)
	}
	take := func(t *testing.T, st store.Store) error {
		r, err := open(t, st)
		if err != nil {
			return err
		}
		cfg := snapshotConfig(s, true)
		cfg.Scan = scan
		cfg.Codec = nil // what the chunks look like plays no part here, and the race detector makes the codec slow
		report, err := capture.Snapshot(t.Context(), r, cfg)
		if f, ok := st.(*storetest.Faulty); ok && f.Fired() == 0 && err == nil {
			disturbable(t, scan, report)
		}
		return errors.Join(err, r.Close())
	}
	before := storetest.NewMemory()
	r, err := repo.Init(t.Context(), before, []seal.Recipient{to}, options)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := take(t, before); err != nil {
		t.Fatal(err)
	}
	// The snapshot under test begins behind these changes, so that it has pages to take.
	s.Exec("", "UPDATE t SET i = i + 1", "CHECKPOINT")
	storetest.EachFault(t, storetest.Sweep{
		Kind:    store.Denied,
		New:     func(*testing.T) store.Store { return before.Clone() },
		Moments: []storetest.Moment{storetest.Before, storetest.After},
		Run:     take,
		Check: func(t *testing.T, st store.Store, failed error) {
			if err := take(t, st); err != nil {
				t.Fatalf("after %v, the next snapshot: %v", failed, err)
			}
			r, err := open(t, st)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			list, err := r.Snapshots(t.Context(), "orders-db")
			if want := 3; err != nil || len(list) > want || len(list) < want-1 || (failed == nil && len(list) != want) {
				t.Fatalf("after %v there are %d snapshots, %v", failed, len(list), err)
			}
			report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: true})
			if err != nil || len(report.Problems) > 0 {
				t.Fatalf("after %v the check finds %+v, %v", failed, report.Problems, err)
			}
		},
	})
}

// disturbable tells whether the snapshot that no fault met did what faults are to meet.
func disturbable(t *testing.T, scan capture.Scan, report *capture.SnapshotReport) {
	t.Helper()
	const pages = 5 // that a thousand rows have
	switch {
	case report.Pages < pages:
		t.Errorf("the snapshot has read %d pages, and %d have changed at least", report.Pages, pages)
	case scan == capture.ScanChanged && (report.FullScan != "" || report.Pages > 500):
		t.Errorf("the snapshot has read %d pages: %s", report.Pages, report.FullScan)
	case scan == capture.ScanFull && report.Pages < 500:
		t.Errorf("the snapshot of everything has read %d pages", report.Pages)
	}
}
