package incremental

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
)

// prefix is what the name of a file has in front that an incremental backup holds in part.
const prefix = "INCREMENTAL."

// source is a file from which the image of a segment takes pages.
type source struct {
	backup int
	file   *os.File
	head   *header // nil: the file is whole
	blocks uint32  // of a whole file
}

// segment is the image of a relation's segment as of a backup: what pg_combinebackup makes of the chain up to it
// (reconstruct.c, reconstruct_from_incremental_file). It never looks at the lengths that the backups between say.
type segment struct {
	path    string // as a whole file has it
	rel     cluster.Relation
	fork    changed.Fork
	first   uint32   // block number of the first page
	length  uint32   // in blocks
	sources []source // newest first, the last one whole; only the first of a file that is whole there
}

// sourceError says that a segment cannot be put together.
type sourceError struct {
	backup int // whose file is at fault
	kind   Kind
	reason string
}

func (e *sourceError) Error() string { return e.reason }

// openSegment opens the files of a segment. An error that is the backup's fault is a *sourceError.
func (a *audit) openSegment(k int, p string, rel cluster.Relation) (*segment, error) {
	s := &segment{
		path: p, rel: rel, first: rel.FirstBlock(a.segmentBlocks),
		fork: changed.Fork{Tablespace: rel.Tablespace, Database: rel.Database, Relation: rel.Number, Fork: rel.Fork},
	}
	for j := k; j >= 0; j-- {
		src, err := a.openSource(j, p)
		if errors.Is(err, fs.ErrNotExist) && j < k {
			err = &sourceError{j, NoSource, fmt.Sprintf("%s holds it in part, and %s, older, does not hold it at all: pg_combinebackup fails", a.backups[j+1].dir, a.backups[j].dir)}
		}
		if err != nil {
			s.close()
			return nil, err
		}
		s.sources = append(s.sources, src)
		if src.head == nil {
			break
		}
		if j == 0 {
			s.close()
			return nil, &sourceError{0, NoSource, "the full backup holds it in part: it is no full backup"}
		}
	}
	if newest := s.sources[0]; newest.head == nil {
		s.length = newest.blocks
	} else {
		s.length = newest.head.total()
	}
	return s, nil
}

// openSource opens what backup j has of a segment: the whole file, or else the INCREMENTAL one.
func (a *audit) openSource(j int, p string) (source, error) {
	src := source{backup: j}
	full := filepath.Join(a.backups[j].at, filepath.FromSlash(p))
	f, err := openRegular(full)
	if err == nil {
		src.file = f
		fi, err := f.Stat()
		if err != nil {
			return src, errors.Join(err, f.Close())
		}
		// What is behind the last page is not read by anybody.
		src.blocks = uint32(min(fi.Size()/page.Size, int64(a.segmentBlocks)))
		return src, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return src, err
	}
	if src.file, err = openRegular(filepath.Join(filepath.Dir(full), prefix+filepath.Base(full))); err != nil {
		return src, err
	}
	h, err := readHeader(io.NewSectionReader(src.file, 0, 1<<40), a.segmentBlocks)
	if err == nil {
		var fi os.FileInfo
		if fi, err = src.file.Stat(); err == nil && fi.Size() != h.fileSize() {
			err = fmt.Errorf("it has %d bytes; with %d carried blocks it must have %d", fi.Size(), len(h.blocks), h.fileSize())
		}
	}
	if err != nil {
		return src, errors.Join(&sourceError{j, BadIncrement, err.Error()}, src.file.Close())
	}
	src.head = &h
	return src, nil
}

func (s *segment) close() {
	for _, src := range s.sources {
		_ = src.file.Close() // only read
	}
}

// carried tells whether the newest backup itself holds a block.
func (s *segment) carried(block uint32) bool {
	if s.sources[0].head == nil {
		return block < s.sources[0].blocks
	}
	_, ok := s.sources[0].head.index(block)
	return ok
}

// find returns where a block of the image comes from; nil where no file has it and it becomes zeros.
func (s *segment) find(block uint32) (*source, int64) {
	for i := range s.sources {
		src := &s.sources[i]
		if i > 0 && block >= s.sources[0].head.length {
			return nil, 0
		}
		if src.head == nil {
			if block < src.blocks {
				return src, int64(block) * page.Size
			}
			return nil, 0
		}
		if n, ok := src.head.index(block); ok {
			return src, src.head.size() + int64(n)*page.Size
		}
	}
	return nil, 0
}

// cutBefore returns the backup, older than the newest and newer than a source, in which the file ended before a
// block that it did not carry; -1 for none.
func (s *segment) cutBefore(block uint32, src *source) int {
	for i := 1; i < len(s.sources) && s.sources[i].backup > src.backup; i++ {
		if h := s.sources[i].head; h != nil && block >= h.length {
			return s.sources[i].backup
		}
	}
	return -1
}

// page reads a block of the image into buf, and returns the backup that it comes from, -1 where it is zeros.
func (s *segment) page(block uint32, buf []byte) (int, error) {
	src, at := s.find(block)
	if src == nil {
		clear(buf)
		return -1, nil
	}
	if _, err := src.file.ReadAt(buf, at); err != nil {
		return -1, fmt.Errorf("read block %d of %s: %w", s.first+block, src.file.Name(), err)
	}
	return src.backup, nil
}

// relationPath returns the path of a whole file for that of a file in a backup, and whether it is a relation's.
func relationPath(p string) (bare string, rel cluster.Relation, partly, ok bool) {
	dir, name := path.Split(p)
	bareName, partly := strings.CutPrefix(name, prefix)
	bare = dir + bareName
	rel, ok = cluster.ParsePath(bare)
	return bare, rel, partly, ok
}

// forkPath returns the path of a segment of another fork of the same relation.
func forkPath(p string, rel cluster.Relation, fork cluster.Fork, segment uint32) (string, cluster.Relation) {
	name := fmt.Sprint(rel.Number)
	if fork != cluster.Main {
		name += "_" + fork.String()
	}
	if segment > 0 {
		name += fmt.Sprintf(".%d", segment)
	}
	rel.Fork, rel.Segment = fork, segment
	return path.Dir(p) + "/" + name, rel
}
