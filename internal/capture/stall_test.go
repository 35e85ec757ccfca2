package capture_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// Every call of one kind hangs while the server writes: the connection is kept alive, what arrives is taken into the
// spool, the server is told of nothing that a second look at the store does not find, and once the store answers again,
// late or with an error, the stream catches up.
func TestStreamBesideAStoreThatHangs(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{
		Version: "15", InitArgs: []string{"--wal-segsize=1"},
		Conf: map[string]string{"wal_keep_size": "2GB", "max_wal_size": "400MB", "wal_sender_timeout": "1s"},
	})
	for _, op := range []string{"put", "delete", ""} { // "" is every call
		for _, when := range []storetest.Moment{storetest.Late, storetest.Stall} {
			t.Run(fmt.Sprintf("%s-%s", op, when), func(t *testing.T) {
				base := storetest.NewMemory()
				faulty := storetest.NewFaulty(base)
				r, log := logRepository(t, faulty)
				second, err := repo.Open(t.Context(), base, seal.Credentials{Passphrase: "correct horse battery staple"}, repo.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer second.Close()
				str := startStream(t, capture.StreamConfig{Connection: s.ConnString(""), Log: log, Interval: 50 * time.Millisecond, Spool: openSpool(t, r, t.TempDir(), 0)})
				load(s, "a", 2)
				str.untilStored(1, flushed(t, s))

				until := make(chan struct{})
				release := sync.OnceFunc(func() { close(until) })
				defer release()
				faulty.SetFaults(storetest.Fault{Op: op, When: when, Kind: store.Busy, Until: until})
				load(s, "a", 4)
				end := flushed(t, s)
				str.until("what the server wrote has arrived", func(st capture.StreamStatus) bool { return st.ReceivedLSN >= end })
				// Longer than the server waits for a sign of life.
				s.Until(t, "", "SELECT bool_and(reply_time > backend_start + interval '1500 ms' AND state = 'streaming') FROM pg_stat_replication WHERE application_name = 'holdfast'", "t")
				wantAckStored(t, s, second.Log(logSystem))
				faulty.SetFaults() // those that hang go on hanging
				release()
				load(s, "a", 2)
				str.untilStored(1, flushed(t, s))
				equalsServer(t, s, second.Log(logSystem), 1, smallSegments, flushed(t, s))
				wantAckStored(t, s, second.Log(logSystem))
				if err := str.stop(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// wantAckStored wants what the server was told to be durable to be in the repository.
func wantAckStored(t *testing.T, s *pgtest.Server, log *repo.Log) {
	t.Helper()
	told, err := wal.ParseLSN(s.Query("", "SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'holdfast'"))
	if err != nil {
		t.Fatal(err)
	}
	start, data := stored(t, log, 1)
	if end := start + wal.LSN(len(data)); end < told {
		t.Errorf("the server was told %s, and the repository holds the log up to %s", told, end)
	}
}

// Each kind of call that a snapshot makes hangs until the snapshot is cancelled: it ends, says so, leaves the server in no
// backup, and the next one succeeds in a sound repository.
func TestSnapshotFromAStoreThatHangs(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{Version: "15", Checksums: true})
	s.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i", "CHECKPOINT")
	to, err := seal.PassphraseRecipient("test", "correct horse battery staple", 1)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	before := storetest.NewMemory()
	r, err := repo.Init(t.Context(), before, []seal.Recipient{to}, repo.Options{Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	take := func(ctx context.Context, st store.Store, local bool) error {
		r, err := repo.Open(ctx, st, seal.Credentials{Passphrase: "correct horse battery staple"}, repo.Options{Signer: signer})
		if err != nil {
			return err
		}
		cfg := snapshotConfig(s, local)
		cfg.Codec = nil // see TestSnapshotEveryFault
		_, err = capture.Snapshot(ctx, r, cfg)
		return errors.Join(err, r.Close())
	}
	for _, local := range []bool{true, false} {
		undisturbed := storetest.NewFaulty(before.Clone())
		if err := take(t.Context(), undisturbed, local); err != nil {
			t.Fatal(err)
		}
		kinds := map[storetest.Call]bool{}
		for _, c := range undisturbed.Calls() {
			folder, _, _ := strings.Cut(c.Name, "/")
			if c.Op != "delete" { // of the intent, at the end: it has half a minute, and nobody needs it
				kinds[storetest.Call{Op: c.Op, Name: folder}] = true
			}
		}
		if len(kinds) < 8 {
			t.Errorf("a snapshot makes only calls of the kinds %v", kinds)
		}
		for kind := range kinds {
			st := before.Clone()
			faulty := storetest.NewFaulty(st)
			ctx, cancel := context.WithCancel(t.Context())
			faulty.SetFaults(storetest.Fault{
				Op: kind.Op, Match: func(name string) bool { return strings.HasPrefix(name, kind.Name) }, When: storetest.Stall, Reached: cancel,
			})
			err := take(ctx, faulty, local)
			cancel()
			if faulty.Fired() == 0 || err == nil || !errors.Is(err, context.Canceled) {
				t.Errorf("local=%v: %s of %s hung %d times until the snapshot was cancelled, which says %v", local, kind.Op, kind.Name, faulty.Fired(), err)
			}
			s.Until(t, "", "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'", "0")
			if err := take(t.Context(), st, local); err != nil {
				t.Errorf("local=%v: after %s of %s hung: %v", local, kind.Op, kind.Name, err)
			}
			wantSound(t, st)
		}
	}
}

func wantSound(t *testing.T, st store.Store) {
	t.Helper()
	r, err := repo.Open(t.Context(), st, seal.Credentials{Passphrase: "correct horse battery staple"}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadData: true})
	if err != nil || len(report.Problems) > 0 || report.Snapshots == 0 {
		t.Errorf("check: %v, %d snapshots, %+v", err, report.Snapshots, report.Problems)
	}
}
