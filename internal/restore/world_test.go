package restore_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
	"github.com/holdfast-dr/holdfast/internal/store/local"
)

const (
	system     = "orders-db"
	passphrase = "correct horse battery staple"
	roleEnv    = "HOLDFAST_TEST_ROLE"
	repoEnv    = "HOLDFAST_TEST_REPO"
)

// The test binary is also the restore_command and its helper.
func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "fetch":
		os.Exit(fetchMain(os.Args[1], os.Args[2]))
	case "serve":
		os.Exit(serveMain(os.Args[1]))
	case "restore":
		os.Exit(restoreMain())
	case "boot":
		os.Exit(bootMain())
	case "extract":
		os.Exit(extractMain())
	}
	os.Exit(m.Run())
}

func openSource(ctx context.Context) (*walserve.Source, error) {
	r, err := openRepository(ctx, os.Getenv(repoEnv))
	if err != nil {
		return nil, err
	}
	p, err := walserve.ReadPolicy(".")
	if err != nil {
		return nil, err
	}
	return walserve.NewSource(r, p), nil
}

func fetchMain(name, path string) int {
	o := walserve.FetchOptions{Open: openSource, StartPrefetcher: func(walDir string) (<-chan struct{}, error) {
		cmd := exec.Command(os.Args[0], walDir)
		cmd.Env = append(os.Environ(), roleEnv+"=serve")
		return sidecar.Detach(cmd)
	}}
	r := walserve.Fetch(context.Background(), name, path, o)
	if err := r.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast:", err)
	}
	return r.ExitCode()
}

func serveMain(walDir string) int {
	s, err := openSource(context.Background())
	if err == nil {
		err = (&walserve.Prefetcher{Source: s, Idle: 3 * time.Second}).Run(context.Background(), walDir)
	}
	if err != nil {
		return 1
	}
	return 0
}

func openRepository(ctx context.Context, dir string) (*repo.Repository, error) {
	st, err := local.Open(dir, local.Options{})
	if err != nil {
		return nil, err
	}
	signer, err := seal.NewSigner()
	if err != nil {
		return nil, err
	}
	return repo.Open(ctx, st, seal.Credentials{Passphrase: passphrase}, repo.Options{Codecs: []repo.Codec{page.NewCodec()}, Signer: signer})
}

// pointsLatest is the newest timeline.
var pointsLatest = points.Timeline{}

// unserved are settings for a directory on which no server is started.
var unserved = restore.Settings{RestoreCommand: "false %f %p"}

// world is a source, a repository, and a place for what is restored.
type world struct {
	t    testing.TB
	s    *pgtest.Server
	r    *repo.Repository
	dir  string // of the repository
	base string // restored directories go below it
	bin  string // this test's binary, where the server's user can run it
}

func newWorld(t testing.TB, o pgtest.Options) *world {
	t.Helper()
	w := &world{t: t, s: pgtest.Start(t, o), base: pgtest.TempDir(t)}
	w.dir = filepath.Join(w.base, "repository")
	st, err := local.Create(w.dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	signer, to := keys(t)
	w.r, err = repo.Init(t.Context(), st, []seal.Recipient{to}, repo.Options{Signer: signer, Codecs: []repo.Codec{page.NewCodec()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.r.Close() })
	if err := w.r.Log(system).Register(t.Context(), repo.DefaultGroup); err != nil {
		t.Fatal(err)
	}
	w.bin = filepath.Join(w.base, "holdfast-test")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, self, w.bin)
	return w
}

// keys returns who signs, and who may open a repository: everybody with the passphrase.
func keys(t testing.TB) (*seal.Signer, seal.Recipient) {
	t.Helper()
	to, err := seal.PassphraseRecipient("test", passphrase, 1)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	return signer, to
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// snapshot takes one of s. The log is archived apart, by archive.
func (w *world) snapshot(s *pgtest.Server) *repo.Manifest {
	w.t.Helper()
	report, err := capture.Snapshot(w.t.Context(), w.r, capture.SnapshotConfig{
		System: system, Connection: s.ConnString(""), DataDir: s.DataDir, Checkpoint: cluster.FastCheckpoint, Codec: page.NewCodec(),
		WaitLog: func(context.Context, wal.TimelineID, wal.LSN, wal.LSN) error { return nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return report.Snapshot
}

// archive stores the log of s's timeline as far as it is flushed, whole segments and the rest, and the mark.
func (w *world) archive(s *pgtest.Server) (tl wal.TimelineID, end wal.LSN) {
	w.t.Helper()
	return w.archiveTo(s, wal.MaxLSN)
}

// archiveTo is archive for a stream that was cut off at a position.
func (w *world) archiveTo(s *pgtest.Server, limit wal.LSN) (tl wal.TimelineID, end wal.LSN) {
	w.t.Helper()
	row := strings.Split(s.Query("", "SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int8, pg_current_wal_flush_lsn(), clock_timestamp()"), "|")
	var n uint32
	if _, err := fmt.Sscan(row[0], &n); err != nil {
		w.t.Fatal(err)
	}
	tl = wal.TimelineID(n)
	end, err := wal.ParseLSN(row[1])
	if err != nil {
		w.t.Fatal(err)
	}
	end = min(end, limit)
	now, err := time.Parse("2006-01-02 15:04:05.999999-07", row[2])
	if err != nil {
		w.t.Fatal(err)
	}
	log := w.r.Log(system)
	names, err := os.ReadDir(filepath.Join(s.DataDir, "pg_wal"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range names {
		b, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", d.Name()))
		if err != nil {
			continue // a directory
		}
		if strings.HasSuffix(d.Name(), ".history") {
			if err := log.PutFile(w.t.Context(), strings.ToLower(d.Name()), b); err != nil {
				w.t.Fatal(err)
			}
			continue
		}
		w.archiveSegment(log, d.Name(), b, tl, end, now)
	}
	if err := log.PutMark(w.t.Context(), repo.Mark{Stream: repo.StreamID(tl), LSN: uint64(end), Source: now, Writer: now}); err != nil {
		w.t.Fatal(err)
	}
	return tl, end
}

func (w *world) archiveSegment(log *repo.Log, name string, b []byte, tl wal.TimelineID, end wal.LSN, now time.Time) {
	size := wal.SegmentSize(len(b))
	n, err := wal.ParseName(name, size)
	// A recycled segment keeps an old beginning.
	if err != nil || n.Kind != wal.Segment || n.Timeline != tl || n.Start >= end || binary.LittleEndian.Uint64(b[8:]) != uint64(n.Start) {
		return
	}
	b = b[:min(wal.LSN(len(b)), end-n.Start)]
	for at := 0; at < len(b); at += repo.MaxExtent {
		err := log.Encoder().Put(w.t.Context(), repo.StreamID(tl), uint64(n.Start)+uint64(at), b[at:min(at+repo.MaxExtent, len(b))],
			repo.ExtentClock{Source: now, Writer: now}, repo.Fast)
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) plan(target string, tl points.Timeline) (*points.Plan, error) {
	w.t.Helper()
	v, err := points.Load(w.t.Context(), w.r, system)
	if err != nil {
		w.t.Fatal(err)
	}
	t, err := points.ParseTarget(target)
	if err != nil {
		w.t.Fatal(err)
	}
	return v.Plan(w.t.Context(), t, tl, points.RefuseLoss)
}

func (w *world) mustPlan(target string) *points.Plan {
	w.t.Helper()
	p, err := w.plan(target, points.Timeline{})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) restoreCommand() string {
	return fmt.Sprintf("env %s=fetch %s=%s %s %%f %%p", roleEnv, repoEnv, w.dir, w.bin)
}

func (w *world) options(name string) restore.Options {
	owner, err := restore.ChooseOwner(filepath.Join(w.base, name), "")
	if err != nil {
		w.t.Fatal(err)
	}
	return restore.Options{To: filepath.Join(w.base, name), Owner: owner, Settings: restore.Settings{RestoreCommand: w.restoreCommand()}}
}

// open returns a server on a restored directory, not started.
func (w *world) open(dir string) *pgtest.Server {
	w.t.Helper()
	pgtest.Chown(w.t, w.dir)
	return pgtest.Open(w.t, dir, pgtest.Options{Version: fmt.Sprint(w.s.Version)})
}

// recovered restores to a target, starts the server, and waits until it accepts writes.
func (w *world) recovered(target, name string) *pgtest.Server {
	w.t.Helper()
	o := w.options(name)
	if _, err := restore.Run(w.t.Context(), w.r, w.mustPlan(target), o); err != nil {
		w.t.Fatal(err)
	}
	s := w.open(o.To)
	s.Start()
	s.Until(w.t, "", "SELECT pg_is_in_recovery()", "f")
	return s
}

func now(s *pgtest.Server) string {
	t, _, _ := strings.Cut(s.Query("", "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"), "|")
	return t
}

// fillWhenWriting fills the file system when the first files are written.
func fillWhenWriting(t *testing.T, filler string) dr.ProgressFunc {
	var once sync.Once
	return func(p dr.Progress) {
		if p.Phase != "writing files" || p.Done == 0 {
			return
		}
		once.Do(func() {
			f, err := os.Create(filler)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			zeros := make([]byte, 1<<20)
			for err == nil {
				_, err = f.Write(zeros)
			}
		})
	}
}
