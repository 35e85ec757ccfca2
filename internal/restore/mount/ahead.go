package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/fusefs"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

const (
	recordsTogether = 4096 // records whose pages are fetched together
	chunksTogether  = 8    // chunks of them that are fetched at once
	segmentBlocks   = 1 << 30 / layer.PageSize
)

// Foresee fetches the pages that the replay of a plan's log will read, in the order of the log: those that a record changes without holding
// them or making them anew, and that no record before it in this log has. It may run while the server replays. What it cannot
// fetch or read the server asks for itself.
func (m *Mount) Foresee(ctx context.Context, p *points.Plan) error {
	if p.Snapshot.Facts.PageSize != layer.PageSize {
		return nil // its blocks lie elsewhere
	}
	f := &foresight{m: m, ctx: ctx, files: map[string]*foreseen{}, spaces: map[uint32]string{}}
	err := restore.ReadLog(ctx, m.repo, p, f.record)
	return errors.Join(err, f.fetch())
}

// foresight is one Foresee.
type foresight struct {
	m       *Mount
	ctx     context.Context //nolint:containedctx // of the call whose callback this is
	files   map[string]*foreseen
	spaces  map[uint32]string // tablespaces: the directory within, which names the server's version
	records int
	wanted  []*foreseen // files of which something is wanted
}

// foreseen is a file that the log changes.
type foreseen struct {
	path  string
	known map[int]uint64 // by chunk: pages that a record has had
	want  map[int]uint64 // and of these, those that are to be fetched
	gone  bool           // the snapshot has no such file
}

func (f *foresight) record(r *record.Record) error {
	for _, b := range r.Blocks {
		f.block(&b)
	}
	if f.records++; f.records < recordsTogether {
		return nil
	}
	f.records = 0
	return f.fetch()
}

func (f *foresight) block(b *record.Block) {
	path := f.path(b)
	file := f.files[path]
	if file == nil {
		file = &foreseen{path: path, known: map[int]uint64{}, want: map[int]uint64{}}
		f.files[path] = file
	}
	n := int(b.Number % segmentBlocks)
	chunk, bit := n/layer.PagesPerChunk, uint64(1)<<(n%layer.PagesPerChunk)
	if file.gone || file.known[chunk]&bit != 0 {
		return
	}
	file.known[chunk] |= bit
	if b.Image || b.Init {
		return
	}
	if len(file.want) == 0 {
		f.wanted = append(f.wanted, file)
	}
	file.want[chunk] |= bit
}

// path returns where a block lies.
func (f *foresight) path(b *record.Block) string {
	r := cluster.Relation{Tablespace: b.Tablespace, Database: b.Database, Number: b.Relation, Fork: cluster.Fork(b.Fork), Segment: b.Number / segmentBlocks}
	space := ""
	if r.Tablespace != cluster.DefaultTablespace && r.Tablespace != cluster.GlobalTablespace {
		space = f.space(r.Tablespace)
	}
	return r.Path(space)
}

// space returns the directory of a tablespace that is this server's.
func (f *foresight) space(oid uint32) string {
	dir, ok := f.spaces[oid]
	if !ok {
		all, err := os.ReadDir(filepath.Join(f.m.Dir, "pg_tblspc", fmt.Sprint(oid)))
		if err == nil && len(all) == 1 {
			dir = all[0].Name()
		}
		f.spaces[oid] = dir
	}
	return dir
}

// fetch brings what is wanted.
func (f *foresight) fetch() error {
	eg, ctx := errgroup.WithContext(f.ctx)
	eg.SetLimit(chunksTogether)
	for _, file := range f.wanted {
		use, err := f.m.attach(file.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			file.gone = true
		case err != nil:
			return errors.Join(err, eg.Wait())
		case use == nil:
			file.gone = true // it is whole, or none of the snapshot's
		default:
			want := file.want
			chunks := slices.Sorted(maps.Keys(want))
			eg.Go(func() error {
				for _, c := range chunks {
					_ = use.Ensure(ctx, c, want[c]) // the server asks again
				}
				return f.m.layer.Detach(use)
			})
		}
		file.want = map[int]uint64{}
	}
	f.wanted = f.wanted[:0]
	return errors.Join(eg.Wait(), f.ctx.Err())
}

// attach returns the file at a path of the data directory, for one use; nil where it is whole, or not the snapshot's.
func (m *Mount) attach(path string) (*layer.File, error) {
	a, rel := m.areas[0], path
	if parts := strings.SplitN(path, "/", 3); len(parts) == 3 && parts[0] == "pg_tblspc" {
		link, err := os.Readlink(filepath.Join(m.Dir, parts[0], parts[1]))
		if i := slices.IndexFunc(m.areas, func(a *area) bool { return a.path == link }); err == nil && i > 0 {
			a, rel = m.areas[i], parts[2]
		}
	}
	f, err := fusefs.OpenLocal(a.dir, rel)
	if err != nil {
		return nil, err
	}
	id, is, err := fusefs.IdentOf(f.File)
	if err != nil || !is || m.layer.Whole(id.ID) {
		return nil, errors.Join(err, f.Close())
	}
	taken := false
	use, err := m.layer.Attach(id, func() (layer.Backing, error) { taken = true; return f, nil })
	if !taken {
		err = errors.Join(err, f.Close())
	}
	return use, err
}
