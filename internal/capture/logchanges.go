package capture

import (
	"context"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

const (
	// maxSummaries bounds the summaries that wait until their block is stored; what is more is not made.
	maxSummaries = 8 << 20
	// summariesTimeout is how long a writer that has finished goes on storing them.
	summariesTimeout = 2 * time.Second
)

// logChanges is what a LogWriter needs to store a summary of each block: which of the cluster's pages it changed.
// Summaries help and are never needed. So the decoder works on blocks in memory, which wait for it and for nothing
// else; storing has a goroutine of its own, and what fails there is left out.
type logChanges struct {
	feed    *changeFeed  // nil: of which cluster the log is has not been said
	waiting []logSummary // oldest first; guarded by the writer's mu
	size    int          // of waiting, bytes
}

// logSummary is the summary of a block, to be stored when the block is.
type logSummary struct {
	block *logBlock
	what  repo.Summary
	data  []byte
}

// Summarise says of which cluster the log is. From the next block on, summaries are stored.
func (w *LogWriter) Summarise(id LogIdentity) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changes.feed == nil {
		w.changes.feed = &changeFeed{id: id}
	}
}

// runChanges reads each block that is closed, before it leaves memory.
func (w *LogWriter) runChanges(ctx context.Context) error {
	for {
		w.mu.Lock()
		i := slices.IndexFunc(w.blocks, func(b *logBlock) bool { return b.closed && !b.summed })
		var b *logBlock
		if i >= 0 {
			b = w.blocks[i]
		}
		changed := w.changed
		w.mu.Unlock()
		if b != nil {
			w.sum(b) // at the end too: it takes some milliseconds
			continue
		}
		if err := waitChange(ctx, changed, -1); err != nil {
			return err
		}
	}
}

// sum makes the summary of a closed block.
func (w *LogWriter) sum(b *logBlock) {
	m := w.changes.feed.block(b.timeline, b.lo, b.bytes(b.lo, b.hi)) // neither changes any more
	var data []byte
	if m != nil {
		data = m.Encode()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	b.summed = true
	if c := &w.changes; m != nil && c.size+len(data) <= maxSummaries {
		c.size += len(data)
		c.waiting = append(c.waiting, logSummary{b, repo.Summary{Stream: repo.StreamID(b.timeline), Start: uint64(m.Start), End: uint64(m.End)}, data})
	}
	w.popLocked()
	w.broadcastLocked()
}

// runSummaries stores the summaries whose blocks are stored.
func (w *LogWriter) runSummaries(ctx context.Context) error {
	for {
		s, changed := w.takeSummary()
		if s != nil {
			w.putSummary(ctx, s)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if s == nil && waitChange(ctx, changed, -1) != nil {
			return context.Cause(ctx)
		}
	}
}

// lastSummaries stores what runSummaries has not, as far as that takes no time.
func (w *LogWriter) lastSummaries(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, summariesTimeout)
	defer stop()
	for ctx.Err() == nil {
		s, _ := w.takeSummary()
		if s == nil {
			return
		}
		w.putSummary(ctx, s)
	}
}

// takeSummary takes the first summary whose block is stored.
func (w *LogWriter) takeSummary() (*logSummary, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.changes
	for i, s := range c.waiting {
		if s.block.whole == s.block.hi {
			c.waiting = slices.Delete(c.waiting, i, i+1)
			c.size -= len(s.data)
			return &s, nil
		}
	}
	return nil, w.changed
}

func (w *LogWriter) putSummary(ctx context.Context, s *logSummary) {
	err := w.log.PutSummary(ctx, s.what, s.data)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Requests++
	switch {
	case err != nil && ctx.Err() != nil: // cut off: once more at the end
		w.changes.waiting = append(w.changes.waiting, *s)
		w.changes.size += len(s.data)
	case err != nil:
		w.opts.Logger.Warn("what a part of the log changed is not stored: a snapshot that needs it reads that part again",
			dr.KeyTimeline, s.what.Stream, dr.KeyLSN, wal.LSN(s.what.Start), dr.KeyError, err)
	}
}
