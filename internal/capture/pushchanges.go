package capture

import (
	"cmp"
	"context"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

const (
	// pushQuiet is how long nothing was pushed before a segment is summed up: pushing comes first. It is longer than a
	// busy archiver rests between two commands, and much shorter than most servers take to fill a segment.
	pushQuiet = 20 * time.Millisecond
	// maxUnsummed bounds the segments that wait; those that have waited longest are given up, which a server recycles first.
	maxUnsummed = 1024
	// pushPiece is how much of a segment is in memory to be summed up.
	pushPiece = 256 << 10
)

// pushChanges stores a summary of each block of pushed log: which of the cluster's pages it changed, as LogWriter does
// for the log of a stream. It reads the server's own files behind the pushes, in the order of the log, while nothing is
// to be pushed. Summaries help and are never needed: what fails here is left out.
type pushChanges struct {
	a    *Archiver
	feed changeFeed
	buf  []byte
}

// sumLocked notes a segment that is stored.
func (a *Archiver) sumLocked(j *pushJob) {
	if len(a.pushed) == maxUnsummed {
		a.pushed = slices.Delete(a.pushed, 0, 1)
	}
	a.pushed = append(a.pushed, j)
	wake(a.summed)
}

func (p *pushChanges) run(ctx context.Context) {
	defer p.last(ctx)
	for {
		j, wait := p.next(time.Now())
		if j != nil {
			p.segment(ctx, j)
			continue
		}
		p.buf = nil // a resting archiver holds no memory of the server's host
		var again <-chan time.Time
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-p.a.summed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// next takes the first segment that waits, where nothing is pushed. Without one it says when to ask again; zero: when
// something was pushed.
func (p *pushChanges) next(now time.Time) (*pushJob, time.Duration) {
	a := p.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pushed) == 0 {
		return nil, 0
	}
	if a.busy > 0 || len(a.queue) > 0 || now.Sub(a.rested) < pushQuiet {
		return nil, pushQuiet
	}
	first := 0
	for i, j := range a.pushed { // workers end in any order
		if c := cmp.Compare(j.name.Timeline, a.pushed[first].name.Timeline); c < 0 || c == 0 && j.name.Start < a.pushed[first].name.Start {
			first = i
		}
	}
	j := a.pushed[first]
	a.pushed = slices.Delete(a.pushed, first, first+1)
	return j, 0
}

// segment reads a segment, where it is still the file that was pushed. One that the server begins to use again meanwhile
// has pages of another place, and records without their checksum: the feed stops there.
func (p *pushChanges) segment(ctx context.Context, j *pushJob) {
	if is, err := statPushed(j.path); err != nil || is != j.stat {
		return
	}
	tl, end := j.name.Timeline, j.name.Start+wal.LSN(j.id.SegmentSize)
	p.feed.id = j.id
	if !p.feed.follows(tl, j.name.Start) {
		p.cut(ctx)
		if p.resume(ctx, j) {
			return
		}
	}
	files := p.open(j, j.name.Start)
	defer files.Close() //nolint:errcheck // only read
	for files.at < end && p.read(ctx, files, min(end, logBlockStart(files.at)+logBlockSize)) {
		if files.at%logBlockSize == 0 {
			p.cut(ctx)
		}
	}
}

// resume takes the feed to where the segment begins from the end of the last summary, so that what a record changed that
// lies in both is known. done: somebody else, the agent's stream, sums up this log.
func (p *pushChanges) resume(ctx context.Context, j *pushJob) (done bool) {
	tl, start := j.name.Timeline, j.name.Start
	end := start + wal.LSN(j.id.SegmentSize)
	from := start - min(start, logBlockSize+wal.LSN(j.id.SegmentSize))
	list, err := p.a.Log.Summaries(ctx, repo.StreamID(tl), uint64(from), uint64(end))
	if err != nil {
		return false
	}
	last := wal.LSN(0)
	for _, s := range list {
		if wal.LSN(s.Start) <= start {
			last = max(last, wal.LSN(s.End))
		}
	}
	switch {
	case last > start:
		return true
	case last < from || last == 0 || !p.feed.begin(tl, last):
		p.feed.decoder = nil
		return false
	}
	files := p.open(j, p.feed.decoder.Next())
	defer files.Close() //nolint:errcheck // only read
	for files.at < start && p.read(ctx, files, start) {
	}
	return false
}

// open reads the log from a position on where a segment lies.
func (p *pushChanges) open(j *pushJob, at wal.LSN) *logFiles {
	return &logFiles{dir: filepath.Dir(j.path), size: j.id.SegmentSize, tl: j.name.Timeline, at: at}
}

// read reads the next piece of the log, at most up to end; false: there is none that can be read.
func (p *pushChanges) read(ctx context.Context, files *logFiles, end wal.LSN) bool {
	if p.buf == nil {
		p.buf = make([]byte, pushPiece)
	}
	at, b := files.at, p.buf[:min(pushPiece, end-files.at)]
	_, err := io.ReadFull(files, b)
	return err == nil && ctx.Err() == nil && p.feed.write(files.tl, at, b)
}

// cut stores the summary of what was read since the last cut.
func (p *pushChanges) cut(ctx context.Context) {
	m := p.feed.cut()
	if m == nil {
		return
	}
	what := repo.Summary{Stream: repo.StreamID(m.Timeline), Start: uint64(m.Start), End: uint64(m.End)}
	_ = p.a.Log.PutSummary(ctx, what, m.Encode()) // as said: a snapshot then reads that part of the log
}

// last stores what was read of a block that is not complete: the archiver ends.
func (p *pushChanges) last(ctx context.Context) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), summariesTimeout)
	defer stop()
	p.cut(ctx)
}
