package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// LogOptions say how a LogWriter stores the log. The zero value is good.
type LogOptions struct {
	Interval    time.Duration // longest that a byte waits before it is put into the repository; 1 s
	IdleMarks   time.Duration // between two high-water marks while nothing arrives; 1 minute
	Synchronous bool          // store what arrives at once: somebody waits for it
	Spool       *Spool        // takes what the repository cannot yet; nil: reading stops instead
	// AckSpool acknowledges what the spool has on disk, and not only what the repository has.
	AckSpool bool
	Blocks   int // blocks of 16 MiB in memory; 4
	// Durable is told up to where the log is acknowledged. It returns at once. Calls ascend.
	Durable func(tl wal.TimelineID, lsn wal.LSN)
	Logger  *slog.Logger
}

func (o *LogOptions) setDefaults() {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.IdleMarks <= 0 {
		o.IdleMarks = markIdle
	}
	if o.Blocks < 3 {
		o.Blocks = 4 // fewer leave none to fill while two are stored
	}
	if o.Durable == nil {
		o.Durable = func(wal.TimelineID, wal.LSN) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// LogWriter brings a system's log into the repository: finished blocks of 16 MiB as one extent each, the
// unfinished tail as pieces. Begin, History, Write and Finish are called by one goroutine, the receiver's, while
// Run works in another one; Status may be called by any.
//
// Of each block that is complete it stores a summary too: which pages it changed (see Summarise).
//
// It never fails because of the repository: what cannot be stored is tried again, meanwhile the bytes go to the
// spool, and when that is full too, Write waits. Its memory is Blocks × 16 MiB, and for each of two workers a block
// in its compressed and its sealed form and, when there is a backlog, as it was read from the spool: 160 MiB for
// four blocks, however large the backlog is.
type LogWriter struct {
	log  *repo.Log
	opts LogOptions

	// mu guards everything below. Not held during I/O.
	mu      sync.Mutex
	changed chan struct{} // closed and replaced when anything below may give somebody work
	blocks  []*logBlock   // oldest first; those that are done leave at the front
	free    [][]byte      // buffers of blocks
	buffers int           // buffers in all
	starved bool          // Write waits for a buffer
	closing bool          // Finish was called
	drained bool          // nothing is left to be stored

	timeline  wal.TimelineID            // of what arrives
	next      wal.LSN                   // where the next byte belongs
	histories map[wal.TimelineID][]byte // not stored yet
	known     map[wal.TimelineID]bool   // histories that were given
	settled   logPosition               // before the first block everything is stored
	acked     logPosition               // what Durable was told
	drops     []logPosition             // what the spool need not keep
	dropFiles []string

	changes logChanges
	marks   logMarks
	retryAt time.Time
	backoff time.Duration
	spoolAt time.Time // not before this the spool is tried again
	status  LogStatus
}

// logPosition is a place in the log.
type logPosition struct {
	timeline wal.TimelineID
	lsn      wal.LSN
}

// LogArrival is a part of the log as its source sent it.
type LogArrival struct {
	Timeline wal.TimelineID
	Start    wal.LSN
	Data     []byte    // lent; empty for a message that tells only the time
	Clock    time.Time // the source's, when it sent this
	End      wal.LSN   // the end of the log at the source at that moment
}

// NewLogWriter returns a writer into log, whose system and signer are registered.
func NewLogWriter(log *repo.Log, opts LogOptions) *LogWriter {
	opts.setDefaults()
	return &LogWriter{log: log, opts: opts, marks: logMarks{idle: opts.IdleMarks}, changed: make(chan struct{}), histories: map[wal.TimelineID][]byte{}, known: map[wal.TimelineID]bool{}}
}

// Begin says where the log goes on: at its first byte, behind a gap, or on another timeline. held, which may be empty, is what the repository has of the current block right
// before start: it is stored again with the whole block. pieces is in how many extents it has that.
func (w *LogWriter) Begin(ctx context.Context, tl wal.TimelineID, start wal.LSN, held []byte, pieces int) error {
	lo := start - wal.LSN(len(held))
	if logBlockStart(lo) != logBlockStart(max(lo, start-1)) {
		return fmt.Errorf("%d bytes before %s are more than the block holds", len(held), start)
	}
	w.log.Begin(repo.StreamID(tl), uint64(start))
	w.mu.Lock()
	w.closeLastLocked()
	if w.timeline != 0 && w.timeline != tl {
		w.marks.left = append(w.marks.left, logPosition{w.timeline, w.next})
	}
	w.timeline, w.next = tl, start
	if len(w.blocks) == 0 {
		w.settled = logPosition{tl, start}
	}
	w.marks.begin(w.settled)
	w.broadcastLocked()
	w.mu.Unlock()
	if len(held) == 0 {
		return nil
	}
	b, err := w.block(ctx, lo)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	copy(b.data[lo-b.start:], held)
	b.hi, b.stored = start, start
	b.pieces = logPieces{small: pieces, from: lo}
	if pieces == 1 {
		b.whole = start
	}
	return nil
}

// History takes the history of a timeline, which is stored before any byte of it. What was given before is ignored.
func (w *LogWriter) History(tl wal.TimelineID, history []byte) error {
	w.mu.Lock()
	known := w.known[tl]
	w.known[tl] = true
	w.mu.Unlock()
	if known {
		return nil
	}
	if w.opts.Spool != nil {
		if err := w.opts.Spool.PutFile(wal.HistoryName(tl), history); err != nil {
			return fmt.Errorf("keep the history of timeline %d: %w", tl, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.histories[tl] = slices.Clone(history)
	return nil
}

// Write takes the next bytes of the log. What overlaps with what is there already is skipped. It waits while
// there is no memory for them.
func (w *LogWriter) Write(ctx context.Context, a LogArrival) error {
	if len(a.Data) > 0 && a.Timeline != w.timeline {
		return fmt.Errorf("the log of timeline %d arrives in that of %d", a.Timeline, w.timeline)
	}
	if len(a.Data) > 0 && a.Start > w.next {
		return fmt.Errorf("the log arrives at %s; %s is expected", a.Start, w.next)
	}
	data := a.Data
	if skip := w.next - a.Start; len(data) > 0 && skip > 0 {
		data = data[min(uint64(len(data)), uint64(skip)):]
	}
	for len(data) > 0 {
		b, err := w.block(ctx, w.next)
		if err != nil {
			return err
		}
		n := min(len(data), int(b.start+logBlockSize-w.next))
		w.mu.Lock()
		copy(b.data[w.next-b.start:], data[:n])
		w.arrivedLocked(b, n, a.Clock)
		w.mu.Unlock()
		data = data[n:]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.SourceEnd = max(w.status.SourceEnd, a.End)
	w.marks.observe(logPosition{w.timeline, w.next}, a)
	return nil
}

// arrivedLocked notes n bytes at the end of b.
func (w *LogWriter) arrivedLocked(b *logBlock, n int, clock time.Time) {
	now := time.Now()
	w.next += wal.LSN(n)
	w.status.Received += dr.Bytes(n)
	b.hi = w.next
	if !clock.IsZero() {
		b.clock = clock
	}
	wake := w.opts.Synchronous
	if b.since.IsZero() {
		b.since, wake = now, true
	}
	if b.unspooled.IsZero() {
		b.unspooled, wake = now, true
	}
	if b.hi == b.start+logBlockSize {
		b.closed, wake = true, true
	}
	if wake {
		w.broadcastLocked()
	}
}

// block returns the block into which the byte at lsn goes: the last one, or a new one, for which it waits until there
// is memory.
func (w *LogWriter) block(ctx context.Context, lsn wal.LSN) (*logBlock, error) {
	for {
		w.mu.Lock()
		if n := len(w.blocks); n > 0 && !w.blocks[n-1].closed {
			b := w.blocks[n-1]
			w.mu.Unlock()
			return b, nil
		}
		if data := w.takeBufferLocked(); data != nil {
			b := &logBlock{timeline: w.timeline, start: logBlockStart(lsn), lo: lsn, hi: lsn, data: data, stored: lsn, spooled: lsn, whole: lsn}
			b.summed = w.changes.feed == nil
			b.pieces.from = lsn
			w.blocks = append(w.blocks, b)
			w.mu.Unlock()
			return b, nil
		}
		w.starved = true
		w.broadcastLocked()
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (w *LogWriter) takeBufferLocked() []byte {
	if n := len(w.free); n > 0 {
		data := w.free[n-1]
		w.free, w.starved = w.free[:n-1], false
		return data
	}
	if w.buffers < w.opts.Blocks {
		w.buffers++
		w.starved = false
		return make([]byte, logBlockSize)
	}
	return nil
}

// closeLastLocked ends the last block: the log goes on elsewhere.
func (w *LogWriter) closeLastLocked() {
	if n := len(w.blocks); n > 0 {
		w.blocks[n-1].closed = true
		w.popLocked()
	}
}

// popLocked forgets the blocks at the front that are done, and frees the memory of all that are.
func (w *LogWriter) popLocked() {
	for _, b := range w.blocks {
		if b.done() && b.data != nil {
			w.free = append(w.free, b.data)
			b.data = nil
		}
	}
	for len(w.blocks) > 0 && w.blocks[0].done() {
		b := w.blocks[0]
		w.blocks[0] = nil
		w.blocks = w.blocks[1:]
		w.settled = logPosition{b.timeline, b.hi}
		w.drops = append(w.drops, w.settled)
		w.marks.finished = true
	}
}

// Restart forgets what was acknowledged: the source is another one, whose log may end before that.
func (w *LogWriter) Restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked = logPosition{}
}

// SetSynchronous says whether somebody waits for each byte to be durable.
func (w *LogWriter) SetSynchronous(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.opts.Synchronous != on {
		w.opts.Synchronous = on
		w.broadcastLocked()
	}
}

// position returns where the next byte belongs.
func (w *LogWriter) position() logPosition {
	w.mu.Lock()
	defer w.mu.Unlock()
	return logPosition{w.timeline, w.next}
}

// Finish says that nothing more will arrive. Run then stores what is left and returns.
func (w *LogWriter) Finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = true
	w.retryAt = time.Time{}
	w.broadcastLocked()
}

func (w *LogWriter) broadcastLocked() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// storedLocked returns up to where the repository has everything.
func (w *LogWriter) storedLocked() logPosition {
	pos := w.settled
	for _, b := range w.blocks {
		pos = logPosition{b.timeline, b.stored}
		if !b.closed || b.stored != b.hi {
			break
		}
	}
	return pos
}

// ackLocked returns up to where the log may be acknowledged.
func (w *LogWriter) ackLocked() logPosition {
	pos := w.settled
	for _, b := range w.blocks {
		end := b.stored
		if w.opts.AckSpool {
			end = max(end, b.spooled)
		}
		pos = logPosition{b.timeline, end}
		if !b.closed || end != b.hi {
			break
		}
	}
	return pos
}

// tell calls Durable when it has news. A new timeline repeats the bytes before the switch, so its first positions are
// below what is acknowledged already.
func (w *LogWriter) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	pos := w.ackLocked()
	if pos.lsn <= w.acked.lsn {
		return
	}
	w.acked = pos
	w.opts.Durable(pos.timeline, pos.lsn) // under the lock: calls ascend, and it returns at once
}

// waitChange returns when something has changed since the channel was taken, or after d; a negative d is for ever.
func waitChange(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	var timer <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-changed:
	case <-timer:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// errDrained ends the parts of Run that have nothing more to do.
var errDrained = errors.New("the log is stored")
