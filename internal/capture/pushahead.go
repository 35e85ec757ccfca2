package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// pushed is what an earlier call remembers of a file that it pushed before its turn: the file is the same one as
// long as these are.
type pushed struct {
	Size  int64  `json:"size"`
	Inode uint64 `json:"inode"`
	Nanos int64  `json:"modified"`
}

// pushAcks is the file in AckDir.
type pushAcks struct {
	Repository string            `json:"repository"`
	Files      map[string]pushed `json:"files"`
}

const pushAckFile = "pushed.json"

// PushKnown tells whether an earlier call of Push brought the file into the repository. It needs no repository, so a
// command can ask before it opens one.
func PushKnown(ackDir, repository, path string) bool {
	if ackDir == "" {
		return false
	}
	acks := readPushAcks(ackDir, repository)
	want, ok := acks.Files[filepath.Base(path)]
	if !ok {
		return false
	}
	have, err := statPushed(path)
	return err == nil && have == want
}

func statPushed(path string) (pushed, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return pushed{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return pushed{st.Size, st.Ino, st.Mtim.Nano()}, nil
}

// readPushAcks returns what is remembered. What cannot be read is forgotten: a file is pushed a second time then.
func readPushAcks(dir, repository string) pushAcks {
	fresh := pushAcks{Repository: repository, Files: map[string]pushed{}}
	b, err := os.ReadFile(filepath.Join(dir, pushAckFile))
	if err != nil {
		return fresh
	}
	var a pushAcks
	if json.Unmarshal(b, &a) != nil || a.Repository != repository || a.Files == nil {
		return fresh
	}
	return a
}

// write makes the file durable: PostgreSQL removes a segment on the strength of it.
func (a pushAcks) write(dir string) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".pushed")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, pushAckFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// segments pushes the segment that was asked for and, where there is an AckDir, those that wait after it.
func (p *push) segments(ctx context.Context, name wal.Name, id LogIdentity) error {
	todo := []wal.Name{name}
	if p.opts.AckDir != "" {
		todo = append(todo, p.waiting(name, id.SegmentSize)...)
	}
	c, err := p.newPusher(ctx, name)
	if err != nil {
		return err
	}
	c.backlog = len(todo) > 2
	stats, errs := make([]pushed, len(todo)), make([]error, len(todo))
	done := make([]bool, len(todo))
	var next atomic.Int64
	var failed atomic.Bool
	var g errgroup.Group
	for range min(p.opts.Workers, len(todo)) {
		w := c.clone()
		g.Go(func() error {
			for {
				i := int(next.Add(1) - 1)
				if i >= len(todo) || failed.Load() || i > 0 && time.Since(p.began) > p.opts.Time {
					return nil
				}
				stats[i], errs[i] = w.segment(ctx, p.pathOf(todo[i], id.SegmentSize), todo[i], id)
				done[i] = errs[i] == nil
				if errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	_ = g.Wait() // the errors are in errs
	if errs[0] != nil {
		return errs[0]
	}
	return p.settle(ctx, todo, done, stats, id.SegmentSize)
}

// settle remembers what was pushed ahead and marks how far the log reaches.
func (p *push) settle(ctx context.Context, todo []wal.Name, done []bool, stats []pushed, size wal.SegmentSize) error {
	end := todo[0].Start
	acks := pushAcks{Repository: p.opts.Repository, Files: map[string]pushed{}}
	for i, n := range todo {
		if !done[i] {
			continue
		}
		if n.Start == end {
			end += wal.LSN(size)
		}
		p.report.Pushed = append(p.report.Pushed, n.FileName(size))
		p.report.Bytes += dr.Bytes(size)
		acks.Files[n.FileName(size)] = stats[i]
	}
	mark := repo.Mark{Stream: repo.StreamID(todo[0].Timeline), LSN: uint64(end), Writer: time.Now().UTC()}
	if err := p.log.PutMark(ctx, mark); err != nil {
		return err
	}
	if len(acks.Files) < 2 {
		return nil
	}
	if err := acks.write(p.opts.AckDir); err != nil {
		return dr.Advise(err, "give holdfast a state directory that the server's user may write to")
	}
	return nil
}

// waiting returns the segments of name's timeline that wait to be archived after it, in order, within the budget.
func (p *push) waiting(name wal.Name, size wal.SegmentSize) []wal.Name {
	entries, err := os.ReadDir(filepath.Join(filepath.Dir(p.path), "archive_status"))
	if err != nil {
		return nil // not called from a data directory: then there is nothing to work ahead on
	}
	var names []wal.Name
	for _, e := range entries {
		base, ready := strings.CutSuffix(e.Name(), ".ready")
		if !ready {
			continue
		}
		// Of this timeline only: the history of another one must be in the repository before its log.
		n, err := wal.ParseName(base, size)
		if err == nil && n.Kind == wal.Segment && n.Timeline == name.Timeline && n.Segment > name.Segment {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(a, b wal.Name) int { return compareLSN(a.Start, b.Start) })
	return names[:min(len(names), max(0, int(p.opts.Bytes)/int(size)-1))]
}

func (p *push) pathOf(n wal.Name, size wal.SegmentSize) string {
	return filepath.Join(filepath.Dir(p.path), n.FileName(size))
}

// pusher pushes segments for one goroutine.
type pusher struct {
	log     *repo.Log
	stream  repo.StreamID
	stored  []repo.Extent // of the timeline, from the first segment on
	backlog bool
	encoder *repo.ExtentEncoder
	reader  *repo.LogReader
	buf     []byte
}

// newPusher looks what of a timeline is stored already, from name on.
func (p *push) newPusher(ctx context.Context, name wal.Name) (*pusher, error) {
	stored, err := p.log.Extents(ctx, repo.StreamID(name.Timeline), uint64(name.Start))
	if err != nil {
		return nil, err
	}
	c := &pusher{log: p.log, stream: repo.StreamID(name.Timeline), stored: stored}
	return c.clone(), nil
}

func (c *pusher) clone() *pusher {
	return &pusher{log: c.log, stream: c.stream, stored: c.stored, backlog: c.backlog, encoder: c.log.Encoder(), reader: c.log.Reader()}
}

// segment pushes one segment after checking that it is what its name says.
func (c *pusher) segment(ctx context.Context, path string, name wal.Name, id LogIdentity) (pushed, error) {
	before, err := statPushed(path)
	if err != nil {
		return before, err
	}
	if before.Size != int64(id.SegmentSize) {
		return before, &dr.Failure{What: path + " is no whole segment", Reason: dr.Bytes(before.Size).String() + " are not " + dr.Bytes(id.SegmentSize).String()}
	}
	if err := c.check(path, name, id); err != nil {
		return before, err
	}
	if err := c.put(ctx, path, name.Start, name.Start+wal.LSN(id.SegmentSize)); err != nil {
		return before, err
	}
	after, err := statPushed(path)
	if err == nil && after != before {
		err = &dr.Failure{What: path + " has changed while it was read", Reason: "a segment that is ready is not written any more", Next: "archive only with the primary's archive_command"}
	}
	return after, err
}

func (c *pusher) check(path string, name wal.Name, id LogIdentity) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	var first [wal.LongHeaderSize]byte
	if _, err := f.ReadAt(first[:], 0); err != nil {
		return err
	}
	_, err = wal.CheckSegment(first[:], name, id.SegmentSize, id.SystemID)
	return err
}

// put stores the log from start to end, which is what the file at path begins with, in extents of 16 MiB.
func (c *pusher) put(ctx context.Context, path string, start, end wal.LSN) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	if c.buf == nil {
		c.buf = make([]byte, min(logBlockSize, end-start))
	}
	for at := start; at < end; {
		stop := min(logBlockStart(at)+logBlockSize, end)
		data := c.buf[:stop-at]
		if _, err := f.ReadAt(data, int64(at-start)); err != nil {
			return err
		}
		if err := c.extent(ctx, path, at, data); err != nil {
			return err
		}
		at = stop
	}
	return nil
}

// extent stores one extent, unless the repository has the same bytes.
func (c *pusher) extent(ctx context.Context, path string, at wal.LSN, data []byte) error {
	end := at + wal.LSN(len(data))
	covered := at
	for _, e := range c.stored {
		from, to := max(wal.LSN(e.Start), at), min(wal.LSN(e.End), end)
		if from >= to {
			continue
		}
		have, _, err := c.reader.Read(ctx, e)
		if errors.Is(err, store.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		have = have[from-wal.LSN(e.Start) : to-wal.LSN(e.Start)]
		if d := differs(have, data[from-at:to-at]); d >= 0 {
			return &PushConflictError{File: filepath.Base(path), Stream: e.Stream, At: from + wal.LSN(d)}
		}
		if from <= covered {
			covered = max(covered, to)
		}
	}
	if covered == end {
		return nil
	}
	compression := repo.Small
	if c.backlog {
		compression = repo.Fast
	}
	return c.encoder.Put(ctx, c.stream, uint64(at), data, repo.ExtentClock{Writer: time.Now()}, compression)
}

// differs returns where two slices of one length differ first, or -1.
func differs(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}
