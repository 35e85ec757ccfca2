package mount_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

const (
	system     = "orders-db"
	passphrase = "correct horse battery staple"
)

// world is a source, and a repository behind a store that fails on order.
type world struct {
	t      testing.TB
	s      *pgtest.Server
	writer *repo.Repository
	r      *repo.Repository // whoever recovers has opened it
	faulty *storetest.Faulty
	dir    string // of the repository
	base   string // what is mounted goes below it
	owner  *restore.Owner
}

func newWorld(t testing.TB, statements ...string) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("to mount for a server takes root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this machine has no /dev/fuse")
	}
	w := &world{t: t, s: pgtest.Start(t, pgtest.Options{Version: "15", Checksums: true}), base: pgtest.TempDir(t)}
	w.s.Exec("", statements...)
	w.dir = filepath.Join(w.base, "repository")
	st, err := local.Create(w.dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	to, err := seal.PassphraseRecipient("test", passphrase, 10)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	w.writer, err = repo.Init(t.Context(), st, []seal.Recipient{to}, repo.Options{Signer: signer, Codecs: []repo.Codec{page.NewCodec()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.writer.Log(system).Register(t.Context(), repo.DefaultGroup); err != nil {
		t.Fatal(err)
	}
	_, err = capture.Snapshot(t.Context(), w.writer, capture.SnapshotConfig{
		System: system, Connection: w.s.ConnString(""), DataDir: w.s.DataDir, Checkpoint: cluster.FastCheckpoint, Codec: page.NewCodec(),
		WaitLog: func(context.Context, wal.TimelineID, wal.LSN, wal.LSN) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.writer.Close() })
	w.faulty = storetest.NewFaulty(st)
	if w.r, err = openRepository(t.Context(), w.faulty); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.r.Close() })
	if w.owner, err = restore.ChooseOwner(filepath.Join(w.base, "x"), ""); err != nil {
		t.Fatal(err)
	}
	return w
}

func openRepository(ctx context.Context, st store.Store) (*repo.Repository, error) {
	signer, err := seal.NewSigner()
	if err != nil {
		return nil, err
	}
	return repo.Open(ctx, st, seal.Credentials{Passphrase: passphrase}, repo.Options{Codecs: []repo.Codec{page.NewCodec()}, Signer: signer})
}

// archive stores the log as far as it is flushed, and the mark.
func (w *world) archive() {
	w.t.Helper()
	row := strings.Split(w.s.Query("", "SELECT pg_current_wal_flush_lsn(), clock_timestamp()"), "|")
	end, err := wal.ParseLSN(row[0])
	if err != nil {
		w.t.Fatal(err)
	}
	at, err := time.Parse("2006-01-02 15:04:05.999999-07", row[1])
	if err != nil {
		w.t.Fatal(err)
	}
	names, err := os.ReadDir(filepath.Join(w.s.DataDir, "pg_wal"))
	if err != nil {
		w.t.Fatal(err)
	}
	log := w.writer.Log(system)
	for _, d := range names {
		b, err := os.ReadFile(filepath.Join(w.s.DataDir, "pg_wal", d.Name()))
		if err != nil {
			continue // a directory
		}
		n, err := wal.ParseName(d.Name(), wal.SegmentSize(len(b)))
		if err != nil || n.Kind != wal.Segment || n.Start >= end || binary.LittleEndian.Uint64(b[8:]) != uint64(n.Start) {
			continue
		}
		b = b[:min(wal.LSN(len(b)), end-n.Start)]
		for off := 0; off < len(b); off += repo.MaxExtent {
			err := log.Encoder().Put(w.t.Context(), 1, uint64(n.Start)+uint64(off), b[off:min(off+repo.MaxExtent, len(b))], repo.ExtentClock{Source: at, Writer: at}, repo.Fast)
			if err != nil {
				w.t.Fatal(err)
			}
		}
	}
	if err := log.PutMark(w.t.Context(), repo.Mark{Stream: 1, LSN: uint64(end), Source: at, Writer: at}); err != nil {
		w.t.Fatal(err)
	}
}

func plan(ctx context.Context, r *repo.Repository) (*points.Plan, error) {
	v, err := points.Load(ctx, r, system)
	if err != nil {
		return nil, err
	}
	return v.Plan(ctx, points.Target{}, points.Timeline{}, points.RefuseLoss)
}

func (w *world) plan() *points.Plan {
	w.t.Helper()
	p, err := plan(w.t.Context(), w.r)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) path(name string) string { return filepath.Join(w.base, name) }

// settings are of a server whose log is served by who watches it.
var settings = restore.Settings{RestoreCommand: "false %f %p", Ending: restore.Follow}

func digest(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		fi, err2 := d.Info()
		switch {
		case err != nil, err2 != nil:
			return fmt.Errorf("%w, %w", err, err2)
		case d.IsDir():
			out[rel+"/"] = fi.Mode().String()
		default:
			b, err := os.ReadFile(path)
			out[rel] = fi.Mode().String() + string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
