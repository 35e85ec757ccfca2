package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// CheckOptions say how thorough a check is. The zero value reads everything but packs' data and the log.
type CheckOptions struct {
	// ReadData reads, opens, decodes and hashes every chunk, and every extent of the log.
	ReadData bool
	// Sample is the share of packs and extents that is read so without ReadData: 0 none, 0.05 a twentieth, at
	// random, so that many small checks see everything in time.
	Sample float64
	// Progress is told how many bytes of packs and log were read.
	Progress dr.ProgressFunc
}

// maxListed bounds the snapshots and the paths that a problem lists.
const maxListed = 20

// Problem is something that is not as it was stored, and what it touches. What no problem names is restorable.
type Problem struct {
	Object        string   `json:"object"`    // of the store
	Reason        string   `json:"reason"`    // several are joined
	Snapshots     []string `json:"snapshots"` // "orders-db 20261123t204700z-5e1f09ab", at most 20 of SnapshotCount
	SnapshotCount int      `json:"snapshotCount"`
	Paths         []string `json:"paths"` // in these snapshots, at most 20 of PathCount; a directory stands for what is below it
	PathCount     int      `json:"pathCount"`

	last string // of Snapshots, also where it is no longer listed
}

// CheckReport is what a check saw.
type CheckReport struct {
	Systems      int       `json:"systems"`
	Snapshots    int       `json:"snapshots"`
	Packs        int       `json:"packs"`
	PacksRead    int       `json:"packsRead"`
	IndexObjects int       `json:"indexObjects"`
	LogExtents   int       `json:"logExtents"`
	ExtentsRead  int       `json:"extentsRead"`
	ReadBytes    int64     `json:"readBytes"`
	Problems     []Problem `json:"problems"` // sorted by object
	Notes        []string  `json:"notes"`    // leftovers that harm nobody
	Warnings     []string  `json:"warnings"` // about the place: who may remove what is in it
}

// checker is one run of Check. Its memory is two bits for each chunk, 100 bytes for each pack, and the problems.
type checker struct {
	r      *Repository
	opts   CheckOptions
	report CheckReport

	private  *Repository
	view     *view
	listed   []string   // objects of snapshots: those that come later may be in no index that was read
	needs    []LogRange // of the snapshots that can be read
	packs    map[packKey]int64
	bad      map[PackID]bool // packs that are missing, or of another size
	badChunk bitmap          // by rank: damaged inside of a pack that is there
	clean    bitmap          // by rank: nodes and lists below which everything is good
	problems map[string]*Problem
	tree     *Reader
}

// Check looks whether everything is there and as it was stored. It changes nothing, and goes on after whatever it
// finds; an error means that it could not look.
func (r *Repository) Check(ctx context.Context, opts CheckOptions) (*CheckReport, error) {
	c := &checker{r: r, opts: opts, bad: map[PackID]bool{}, problems: map[string]*Problem{}}
	steps := []func(context.Context) error{c.keys, c.small, c.list, c.index, c.data, c.snapshots, c.log, c.leftovers, c.versions, c.bucket}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return &c.report, errors.Join(err, c.close())
		}
	}
	for _, p := range c.problems {
		c.report.Problems = append(c.report.Problems, *p)
	}
	slices.SortFunc(c.report.Problems, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	return &c.report, c.close()
}

func (c *checker) close() error {
	if c.private == nil {
		return nil
	}
	return c.private.Close()
}

// problem notes what is wrong with an object; several reasons are joined.
func (c *checker) problem(object, reason string) *Problem {
	p := c.problems[object]
	if p == nil {
		p = &Problem{Object: object, Reason: reason}
		c.problems[object] = p
	} else if !strings.Contains(p.Reason, reason) && len(p.Reason) < 500 {
		p.Reason += "; " + reason
	}
	return p
}

// judge turns an error into a problem where it is one of the object, and returns it otherwise.
func (c *checker) judge(object string, err error) error {
	if err == nil || !lost(err) {
		return err
	}
	c.problem(object, reasonOf(err))
	return nil
}

// reasonOf returns what is wrong without repeating the object's name.
func reasonOf(err error) string {
	var d *seal.DamagedError
	switch {
	case errors.As(err, &d):
		return fmt.Sprintf("damaged at byte %d (%s)", d.Offset, d.Reason)
	case errors.Is(err, store.ErrNotExist):
		return "missing"
	}
	return err.Error()
}

func (c *checker) note(format string, args ...any) {
	c.report.Notes = append(c.report.Notes, fmt.Sprintf(format, args...))
}

// chosen reports whether a pack or extent is to be read.
func (c *checker) chosen() bool { return c.opts.ReadData || rand.Float64() < c.opts.Sample }

func (c *checker) read(n int64) {
	c.report.ReadBytes += n
	if c.opts.Progress != nil {
		c.opts.Progress(dr.Progress{Phase: "reading " + c.r.store.String(), Done: dr.Bytes(c.report.ReadBytes)})
	}
}

// keys looks at marker, epochs and slots.
func (c *checker) keys(ctx context.Context) error {
	if m, err := readMarker(ctx, c.r.store); err != nil || m.ID != c.r.id {
		if err == nil {
			err = errors.New("it names another repository")
		}
		c.problem(markerName, err.Error())
	}
	e, err := c.r.currentEpoch(ctx)
	if err != nil {
		object := epochName(c.r.id, c.r.keys.Epoch()) // nobody knows of a newer one
		if c.r.earlier != nil {
			if first, firstErr := currentEpoch(ctx, genesis{c.r.bare, c.r.earlier.vault}, c.r.id); firstErr == nil {
				object = epochName(c.r.id, first.Epoch)
			}
		}
		c.problem(object, err.Error())
		return ctx.Err()
	}
	if c.r.earlier != nil {
		foreign, err := c.r.foreignEpochs(ctx, c.r.bare)
		if err != nil {
			return err
		}
		for _, name := range foreign {
			c.problem(name, errForeignEpoch.Error())
		}
	}
	if e.Epoch != c.r.keys.Epoch() || e.Check != c.r.keys.EpochCheck(e.Epoch) {
		c.problem(epochName(c.r.id, e.Epoch), "it is not of the keys that this repository was opened with")
	}
	good, damaged, err := slots(ctx, c.r.store, c.r.id, e.Generation)
	if err != nil {
		return err
	}
	for _, d := range damaged {
		object := slotName(c.r.id, e.Generation, "")
		if slot := new(slotError); errors.As(d, &slot) {
			object = slot.name
		}
		c.problem(object, d.Error())
	}
	for _, s := range good {
		if !c.r.keys.Authentic(s) {
			c.problem(slotName(c.r.id, e.Generation, s.Who().ID()), fmt.Sprintf("slot %q was not made, or was changed, by somebody who does not hold the keys", s.Name))
		}
	}
	return nil
}

// small opens every small sealed object that is not a snapshot.
func (c *checker) small(ctx context.Context) error {
	kinds := []struct {
		prefix string
		kind   seal.Kind
		all    bool // or those that are chosen: there are as many as extents
	}{
		{prefixSystems, seal.KindSystem, true},
		{prefixSigners, seal.KindSigner, true},
		{prefixIntents, seal.KindIntent, true},
		{prefixCollect, seal.KindCollection, true},
		{prefixGraves, seal.KindCollection, true},
		{replicaName, seal.KindReplica, true},
		{lockedName, seal.KindReplica, true},
		{scrubName, seal.KindReplica, true},
		{prefixLogFiles, seal.KindLogFile, true},
		{prefixMarks, seal.KindMark, true},
		{prefixPlaces, seal.KindPlace, true},
		{prefixSummaries, seal.KindSummary, false},
		{prefixEvidence, seal.KindEvidence, false},
	}
	for _, k := range kinds {
		var names []string
		if err := c.r.store.List(ctx, k.prefix, "", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
			return err
		}
		if k.kind == seal.KindSystem {
			c.report.Systems = len(names)
		}
		for _, name := range names {
			if !k.all && !c.chosen() {
				continue
			}
			b, err := c.r.store.Get(ctx, name, maxIndexObject)
			if errors.Is(err, store.ErrNotExist) {
				continue // removed meanwhile
			}
			if err == nil {
				_, err = c.r.keys.OpenWhole(k.kind, name, b)
			}
			if err := c.judge(name, err); err != nil {
				return err
			}
		}
	}
	return nil
}
