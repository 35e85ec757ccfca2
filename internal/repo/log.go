package repo

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// MaxExtent is the largest piece of a log that one object holds, in plain bytes.
const MaxExtent = 16 << 20

// Extent is a part of a stream that one object holds.
type Extent struct {
	Stream StreamID
	Start  uint64
	End    uint64
	Stored int64 // bytes in the store
}

// ExtentClock tells when an extent's last byte was written, as far as anybody can know.
type ExtentClock struct {
	Source time.Time // the source's clock, from its protocol; zero where unknown
	Writer time.Time // the clock of the host that stored it
}

// Log is the change log of one system. Its methods may be called from several goroutines.
type Log struct {
	r      *Repository
	system string
	marks  ownMarks
	known  *Holders // nil: nothing is
	own    string
}

// Log returns the log of a system. Reading needs nothing more; a writer registers the system first.
func (r *Repository) Log(system string) *Log { return &Log{r: r, system: system} }

// Tell has the extents that are stored from now on say what somebody knows of who has the log. own is the site at which this Log
// stores them, which is told to him; empty where whoever stores them does that. It is called before anything is stored.
func (l *Log) Tell(known *Holders, own string) { l.known, l.own = known, own }

// Begin says where a writer goes on with a stream.
func (l *Log) Begin(s StreamID, at uint64) {
	if l.known != nil {
		l.known.Begin(s, at)
	}
}

func (l *Log) holders(s StreamID) []Holder {
	if l.known == nil {
		return nil
	}
	return l.known.Of(s)
}

// stored notes that an object is durable.
func (l *Log) stored(object string) {
	if l.known != nil && l.own != "" {
		l.known.Put(l.own, object)
	}
}

// Replica returns the name of the replica that is read; empty where it has none. It writes nothing.
func (l *Log) Replica(ctx context.Context) (string, error) {
	var o replicaObject
	err := l.r.readJSON(ctx, seal.KindReplica, replicaName, &o)
	if errors.Is(err, store.ErrNotExist) {
		return "", nil
	}
	return o.ID, err
}

// Register makes the system known under its residency group, and this process's signer.
func (l *Log) Register(ctx context.Context, group ResidencyGroup) error {
	if err := l.r.registerSystem(ctx, l.system, group); err != nil {
		return err
	}
	if l.r.opts.Signer == nil {
		return errors.New("a writer needs a signer")
	}
	return l.r.registerSigner(ctx)
}

// Extents returns what the store holds of a stream at or after from, sorted by start, the longer of two with
// one start first. Extents overlap where a finished one has superseded pieces that are still there.
func (l *Log) Extents(ctx context.Context, s StreamID, from uint64) ([]Extent, error) {
	return answered(ctx, l, func(ctx context.Context, l *Log) ([]Extent, error) { return l.extents(ctx, s, from) }, uniteExtents)
}

func (l *Log) extents(ctx context.Context, s StreamID, from uint64) ([]Extent, error) {
	// An extent that begins before from may reach beyond it, but by no more than its greatest length.
	prefix := l.r.logPrefix(l.system, s)
	after := ""
	if from > MaxExtent {
		after = fmt.Sprintf("%s%016x", prefix, from-MaxExtent)
	}
	var out []Extent
	err := l.r.store.List(ctx, prefix, after, func(i store.Info) error {
		if stream, start, end, ok := parseExtentName(i.Name); ok && stream == s && end > from {
			out = append(out, Extent{s, start, end, i.Size})
		}
		return nil
	})
	out = byStart(out)
	if err == nil && l.r.help.Load() != nil {
		if have := Merge(out); len(have) > 1 || len(have) == 1 && from > 0 && have[0].Start > from {
			out = byStart(l.extentsElsewhere(ctx, s, from, l.extentsBefore(ctx, s, out)))
		}
	}
	return out, err
}

func byStart(all []Extent) []Extent {
	sort.Slice(all, func(i, j int) bool {
		return all[i].Start < all[j].Start || (all[i].Start == all[j].Start && all[i].End > all[j].End)
	})
	return all
}

// Streams returns the streams of which the store holds anything, ascending.
func (l *Log) Streams(ctx context.Context) ([]StreamID, error) {
	return answered(ctx, l, func(ctx context.Context, l *Log) ([]StreamID, error) { return l.streams(ctx) }, uniteSorted)
}

func (l *Log) streams(ctx context.Context) ([]StreamID, error) {
	prefix := prefixLog + l.r.keys.NameHash(l.system) + "/"
	var out []StreamID
	after := ""
	for {
		// One name a request: jump from stream to stream instead of listing every extent.
		found := false
		stop := errors.New("stop")
		err := l.r.store.List(ctx, prefix, after, func(i store.Info) error {
			s, _, _, ok := parseExtentName(i.Name)
			if !ok {
				return nil
			}
			out, found = append(out, s), true
			after = fmt.Sprintf("%s~", l.r.logPrefix(l.system, s)[:len(prefix)+8])
			return stop
		})
		if err != nil && !errors.Is(err, stop) {
			return nil, err
		}
		if !found {
			return out, nil
		}
	}
}

// Range is a part of a stream without gaps, from Start to before End.
type Range struct{ Start, End uint64 }

// Merge joins extents that touch or overlap. The result ascends; between two of its ranges there is a gap.
func Merge(extents []Extent) []Range {
	var out []Range
	for _, e := range extents {
		if n := len(out); n > 0 && e.Start <= out[n-1].End {
			out[n-1].End = max(out[n-1].End, e.End)
			continue
		}
		out = append(out, Range{e.Start, e.End})
	}
	return out
}

// DropPieces removes extents of a stream that keep covers whole and that are not keep itself: the pieces of
// what is now finished. keep must be durable.
func (l *Log) DropPieces(ctx context.Context, keep Extent) error {
	all, err := l.Extents(ctx, keep.Stream, keep.Start)
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Start >= keep.Start && e.End <= keep.End && e.End-e.Start < keep.End-keep.Start {
			if err := l.r.store.Delete(ctx, l.r.extentName(l.system, e.Stream, e.Start, e.End)); err != nil {
				return err
			}
		}
	}
	return nil
}

// PutFile stores a small file that belongs to the log, such as a timeline's history, under a name of the
// characters [a-z0-9._-]. A file that is there already is replaced.
func (l *Log) PutFile(ctx context.Context, name string, data []byte) error {
	object := prefixLogFiles + l.r.keys.NameHash(l.system) + "/" + name
	if err := store.CheckName(object); err != nil {
		return err
	}
	return l.r.store.Put(ctx, object, l.r.keys.SealWhole(seal.KindLogFile, object, data))
}

// File returns what PutFile stored. store.ErrNotExist is in the error where there is none.
func (l *Log) File(ctx context.Context, name string) ([]byte, error) {
	return answered(ctx, l, func(ctx context.Context, l *Log) ([]byte, error) { return l.file(ctx, name) }, either)
}

func (l *Log) file(ctx context.Context, name string) ([]byte, error) {
	object := prefixLogFiles + l.r.keys.NameHash(l.system) + "/" + name
	b, err := l.r.store.Get(ctx, object, maxSmall)
	if err != nil {
		return nil, err
	}
	return l.r.keys.OpenWhole(seal.KindLogFile, object, b)
}

// Files returns the names of the stored files, sorted.
func (l *Log) Files(ctx context.Context) ([]string, error) {
	return answered(ctx, l, func(ctx context.Context, l *Log) ([]string, error) { return l.files(ctx) }, uniteSorted)
}

func (l *Log) files(ctx context.Context) ([]string, error) {
	prefix := prefixLogFiles + l.r.keys.NameHash(l.system) + "/"
	var out []string
	err := l.r.store.List(ctx, prefix, "", func(i store.Info) error { out = append(out, i.Name[len(prefix):]); return nil })
	return out, err
}
