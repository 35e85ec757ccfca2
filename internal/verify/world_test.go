package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/figure"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
)

const (
	system     = "orders-db"
	passphrase = "correct horse battery staple"
	roleEnv    = "HOLDFAST_TEST_ROLE"
)

// The test binary is also the restore_command, which asks the test for the log and nobody else.
func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) == "fetch" {
		nobody := func(context.Context) (*walserve.Source, error) {
			return nil, errors.New("nobody serves the log")
		}
		r := walserve.Fetch(context.Background(), os.Args[1], os.Args[2], walserve.FetchOptions{
			Open: nobody, StartPrefetcher: func(string) (<-chan struct{}, error) { return nil, errors.New("there is none") },
		})
		if err := r.Err(); err != nil {
			fmt.Fprintln(os.Stderr, "holdfast:", err)
		}
		os.Exit(r.ExitCode())
	}
	if os.Getenv(roleEnv) == "verify" {
		if err := verifyMain(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// world is a source with a repository that holds it.
type world struct {
	t    testing.TB
	s    *pgtest.Server
	r    *repo.Repository
	dir  string // of the repository
	base string
	bin  string // this test's binary, where the server's user can run it

	figures func(context.Context) *figure.Recorded
}

func newWorld(t testing.TB, o pgtest.Options) *world {
	t.Helper()
	w := &world{t: t, s: pgtest.Start(t, o), base: pgtest.TempDir(t)}
	// The server of a test is another user's, who has to pass.
	if err := os.Chmod(w.base, 0o711); err != nil {
		t.Fatal(err)
	}
	w.dir = filepath.Join(w.base, "repository")
	st, err := local.Create(w.dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	to, err := seal.PassphraseRecipient("test", passphrase, 10)
	if err != nil {
		t.Fatal(err)
	}
	w.r, err = repo.Init(t.Context(), st, []seal.Recipient{to}, repo.Options{Signer: newSigner(t), Codecs: []repo.Codec{page.NewCodec()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.r.Close() })
	if err := w.r.Log(system).Register(t.Context(), repo.DefaultGroup); err != nil {
		t.Fatal(err)
	}
	return w
}

func newSigner(t testing.TB) *seal.Signer {
	t.Helper()
	signer, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// open opens the repository of a directory anew: nothing of it is remembered.
func (w *world) open(st store.Store) (*repo.Repository, error) {
	return repo.Open(w.t.Context(), st, seal.Credentials{Passphrase: passphrase}, repo.Options{Codecs: []repo.Codec{page.NewCodec()}, Signer: newSigner(w.t)})
}

func (w *world) snapshot() *repo.Manifest {
	w.t.Helper()
	report, err := capture.Snapshot(w.t.Context(), w.r, capture.SnapshotConfig{
		System: system, Connection: w.s.ConnString(""), DataDir: w.s.DataDir, Checkpoint: cluster.FastCheckpoint, Codec: page.NewCodec(),
		WaitLog: func(context.Context, wal.TimelineID, wal.LSN, wal.LSN) error { return nil },
		Figures: w.figures,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return report.Snapshot
}

// archive stores the log as far as it is flushed, and the mark.
func (w *world) archive() {
	w.t.Helper()
	row := strings.Split(w.s.Query("", "SELECT pg_current_wal_flush_lsn(), clock_timestamp()"), "|")
	end, err := wal.ParseLSN(row[0])
	if err != nil {
		w.t.Fatal(err)
	}
	now, err := time.Parse("2006-01-02 15:04:05.999999-07", row[1])
	if err != nil {
		w.t.Fatal(err)
	}
	log := w.r.Log(system)
	names, err := os.ReadDir(filepath.Join(w.s.DataDir, "pg_wal"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range names {
		b, err := os.ReadFile(filepath.Join(w.s.DataDir, "pg_wal", d.Name()))
		if err != nil {
			continue // a directory
		}
		n, err := wal.ParseName(d.Name(), wal.SegmentSize(len(b)))
		// A recycled segment keeps an old beginning.
		if err != nil || n.Kind != wal.Segment || n.Start >= end || binary.LittleEndian.Uint64(b[8:]) != uint64(n.Start) {
			continue
		}
		b = b[:min(wal.LSN(len(b)), end-n.Start)]
		for at := 0; at < len(b); at += repo.MaxExtent {
			piece := b[at:min(at+repo.MaxExtent, len(b))]
			if err := log.Encoder().Put(w.t.Context(), 1, uint64(n.Start)+uint64(at), piece, repo.ExtentClock{Source: now, Writer: now}, repo.Fast); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	if err := log.PutMark(w.t.Context(), repo.Mark{Stream: 1, LSN: uint64(end), Source: now, Writer: now}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) plan(r *repo.Repository, at string) (*points.View, *points.Plan) {
	w.t.Helper()
	v, err := points.Load(w.t.Context(), r, system)
	if err != nil {
		w.t.Fatal(err)
	}
	target, err := points.ParseTarget(at)
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := v.Plan(w.t.Context(), target, points.Timeline{}, points.RefuseLoss)
	if err != nil {
		w.t.Fatal(err)
	}
	return v, p
}

// binary puts this test's binary where a server's user can run it.
func (w *world) binary() string {
	w.t.Helper()
	if w.bin != "" {
		return w.bin
	}
	w.bin = filepath.Join(w.base, "holdfast-test")
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		w.t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(w.bin, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		w.t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		w.t.Fatal(err)
	}
	return w.bin
}

func (w *world) restoreCommand() string {
	return fmt.Sprintf("env %s=fetch %s %%f %%p", roleEnv, w.binary())
}
