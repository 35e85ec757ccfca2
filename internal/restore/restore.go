package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Mode says what may be in the target directory.
type Mode string

// The modes of a restore.
const (
	Fresh   Mode = ""        // nothing, or our own interrupted restore of the same snapshot
	Delta   Mode = "delta"   // a stopped cluster: what it has right is kept, the rest is overwritten or removed
	Compare Mode = "compare" // the same; every byte is looked at, whatever the log tells
)

// overwrites tells whether a cluster may be in the target.
func (m Mode) overwrites() bool { return m == Delta || m == Compare }

// Options say where and how to restore. To and Settings are needed.
type Options struct {
	To string // the data directory
	// Tablespaces maps a tablespace, by name, OID or location at the source, to a directory here. Others go to
	// To_tablespaces/OID, and with Delta to where To's own links point, unless that is the source's own place.
	Tablespaces map[string]string
	Mode        Mode
	Settings    Settings
	Owner       *Owner // nil: the user that runs this; see ChooseOwner for root
	Damage      Damage
	// Changes tells what the repository's log changed, for Delta; nil: nobody does, and every byte is compared.
	Changes  ChangesFunc
	Lazy     *Lazy // nil: the content of all files is written
	Workers  int   // 0: twice GOMAXPROCS, since each waits for the disk or the store half of its time, and more where that is far
	Progress dr.ProgressFunc
}

// Damage says what to do where the repository has lost chunks.
type Damage string

// What is done about damage. In both cases everything else is restored, and the damage is reported.
const (
	RefuseDamage Damage = "" // the directory stays without pg_control, so that it cannot be started
	// KeepDamage: lost chunks are zeros, lost files are not there, or with Delta as they were in the cluster before, and
	// the directory can be started, if only pg_control is whole.
	KeepDamage Damage = "keep"
)

// Result is what a restore did.
type Result struct {
	Snapshot    repo.SnapshotID   `json:"snapshot"`
	To          string            `json:"to"`
	Tablespaces map[string]string `json:"tablespaces,omitempty"` // by name (or OID) where they are now
	Files       int64             `json:"files"`
	Bytes       int64             `json:"bytes"`
	Kept        int64             `json:"kept"`    // bytes that were right already
	Resumed     bool              `json:"resumed"` // an interrupted restore was continued
	Took        time.Duration     `json:"took"`
	Damaged     []DamagedRange    `json:"damaged,omitempty"`
	Lost        []LostPaths       `json:"lost,omitempty"`    // files and directories that the repository does not even name any more
	Rescued     int64             `json:"rescued,omitempty"` // files of Lost that an earlier run had restored: they were kept, and are whole
	Old         []string          `json:"old,omitempty"`     // files of Lost that a Delta found in the cluster: they were left, of another moment than the rest
	Notes       []string          `json:"notes,omitempty"`
	Delta       *DeltaReport      `json:"delta,omitempty"` // of a Delta over a cluster
}

// run is one restore.
type run struct {
	repo    *repo.Repository
	plan    *points.Plan
	opts    Options
	layout  *layout
	journal *journal
	result  *Result
	state   targetState

	total    int64
	progress progress
	control  []byte   // pg_control's content, written last; nil where the repository has lost it
	dirs     []string // tree paths of the directories, parents first
	isDir    seen     // the same
	files    seen     // tree paths of the files, for Delta
	conf     bool     // the tree has postgresql.conf
	hba      bool     // and pg_hba.conf

	controlLost *DamagedRange // pg_control's content

	twoPhase twoPhase

	known     *knowledge // what need not be looked at; nil: everything has to be
	lots      lots       // files that are looked at all the same
	rewritten atomic.Int64
}

// farWorkers is how many write files from a store that is far: a cluster has a thousand small files, and each waits for answers.
// More would take more memory than a machine may have for it.
const farWorkers = 12

// Run restores a plan's snapshot into a directory. An interrupted Run is continued by the same call. Where the
// error is a *DamageError everything else was restored; Result is not nil then.
func Run(ctx context.Context, r *repo.Repository, p *points.Plan, o Options) (_ *Result, err error) {
	started := time.Now()
	if o.To, err = filepath.Abs(o.To); err != nil {
		return nil, err
	}
	x := &run{repo: r, plan: p, opts: o, result: &Result{Snapshot: p.Snapshot.Manifest.ID, To: o.To, Notes: p.Notes}}
	x.progress.fn = o.Progress
	if x.state, err = inspect(ctx, p, o.To, o.Mode, o.Lazy.beside()); err != nil {
		return nil, err
	}
	if x.layout, err = x.planLayout(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, x.layout.close()) }()
	if err := x.survey(ctx); err != nil {
		return nil, err
	}
	if err := x.checkSpace(); err != nil && (o.Lazy == nil || !o.Lazy.Sparse) {
		return nil, err
	}
	if err := x.learn(ctx); err != nil {
		return nil, err
	}
	if err := x.begin(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, x.journal.close()) }()
	if x.opts.Workers <= 0 {
		x.opts.Workers = 2 * runtime.GOMAXPROCS(0)
		if r.Far() {
			x.opts.Workers = max(x.opts.Workers, farWorkers)
		}
	}
	if err := x.layFiles(ctx); err != nil {
		return nil, x.explain(err)
	}
	if err := x.writeFiles(ctx); err != nil {
		return nil, x.explain(err)
	}
	if err := x.finish(ctx); err != nil {
		return nil, x.explain(err)
	}
	if x.result.Delta != nil {
		x.result.Delta.Rewritten = x.rewritten.Load()
	}
	x.result.Took = time.Since(started)
	if x.damaged() {
		return x.result, &DamageError{Snapshot: x.result.Snapshot, To: o.To, Ranges: x.result.Damaged, Lost: x.result.Lost, Rescued: x.result.Rescued, Old: x.result.Old, Startable: x.startable()}
	}
	return x.result, nil
}

// finish makes the directory one that can be started.
func (x *run) finish(ctx context.Context) error {
	x.progress.phase("finishing")
	if x.controlLost != nil {
		x.result.Damaged = append(x.result.Damaged, *x.controlLost)
	}
	if err := x.writeSettings(); err != nil {
		return err
	}
	if err := x.writeOlderNames(ctx); err != nil {
		return err
	}
	if err := x.syncDirs(); err != nil || !x.startable() {
		return err // the journal stays: with the chunks back, the same restore continues
	}
	if err := x.writeControl(); err != nil {
		return err
	}
	return x.journal.remove()
}

// explain adds the next step to what went wrong while writing.
func (x *run) explain(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	next := "run the same command again: it continues where this one ended"
	if isFull(err) {
		next = "make room, then run the same command again: it continues where this one ended"
	}
	return dr.Fail(fmt.Sprintf("restore %s to %s", x.plan.System, x.opts.To), err, next)
}
