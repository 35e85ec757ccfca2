package standby

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/walsender"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// tail is the log of a system in a repository as it grows, along the way to its newest timeline: one line of bytes, of which each
// timeline holds a part.
type tail struct {
	system  walsender.System // Timeline and Flushed are those of the way
	every   time.Duration    // between two looks
	guard   walserve.Guard
	open    func(context.Context) (*repo.Log, error) // for the first time
	reopen  func(context.Context) (*repo.Log, error) // with the keys of today
	logger  *slog.Logger
	primary config.Connection // from which it comes sooner; empty: none

	mu       sync.Mutex    // guards the rest. Not held while the store is asked
	log      *repo.Log     // nil before the repository has answered
	changed  chan struct{} // closed when anything below changes
	view     view
	begun    int     // how often Base was set anew: what was listed for another one does not count
	listed   int     // begun, of the last look: where it differs, End is no end that was looked for
	pieces   []piece // known, at or behind view.Base; ascending
	limit    wal.LSN // nothing behind it is served
	waysAt   time.Time
	markAt   time.Time
	receiver *stream.Receiver // of the primary's log; nil: it does not come from there

	wake chan struct{} // somebody waits for the next look
	turn chan struct{} // of the one who looks: an older listing must not be taken for a newer one
}

// scope says what a look asks for.
type scope bool

// The two scopes.
const (
	newLog     scope = false // the log, and of the rest what is due
	everything scope = true  // new timelines and marks too
)

// view is what is known of the log.
type view struct {
	Way     *wal.Timelines // to the newest timeline; nil before the first look
	Lent    bool           // the primary has told it, and the repository does not know all of it yet
	Strayed error          // the standby has followed the primary where the repository's way does not lead
	Base    wal.LSN        // what lies before it was not looked at
	End     wal.LSN        // everything from Base to here is there
	Next    wal.LSN        // where more is, behind a hole; 0: nowhere
	Holed   time.Time      // since when
	Sent    wal.LSN        // to the standby
	Has     wal.LSN        // what the standby says that it has on its disk
	Session wal.TimelineID // on which the standby was served last; 0: not since it was started
	Commit  commit         // the newest that was sent
	Clock   time.Time      // of the source, at what was sent last
	Mark    repo.Mark      // of the newest timeline
	Looked  time.Time      // when the store answered last
	Grown   time.Time      // when the log last grew
	Problem error          // of the last look
	Unread  error          // why what is next could not be read
	Damaged wal.LSN        // the end of an extent that is damaged, and comes next; 0: none
	Refused string         // why the log is not served on
	Foreign error          // the standby is not on the way

	Streams    bool      // it comes from the primary
	Severed    error     // why it does not; nil where there is none
	Writes     bool      // the one from which it comes, or came last, is no standby itself
	Heard      time.Time // from it
	PrimaryEnd wal.LSN   // how far the primary's log went when it said so last
}

type commit struct {
	LSN  wal.LSN
	Time time.Time
}

// piece is an extent as far as it lies on the way.
type piece struct {
	repo.Extent
	from, to wal.LSN
}

const (
	waysEvery = 2 * time.Second  // a new timeline is looked for where nothing comes,
	waysIdle  = 30 * time.Second // and where nothing has come for long
	markEvery = time.Minute      // a mark says only how long nothing has happened
	idleAfter = time.Minute      // without anything new the log is looked at less often,
	idleTimes = 5                // by so much
	mostLate  = 10 * time.Second // between two looks where the store fails
)

func newTail(system walsender.System, log *repo.Log, base wal.LSN) *tail {
	return &tail{
		system: system, log: log, limit: wal.MaxLSN, changed: make(chan struct{}), wake: make(chan struct{}, 1), turn: make(chan struct{}, 1), logger: slog.New(slog.DiscardHandler),
		view: view{Base: base, End: base, Grown: time.Now()},
	}
}

// follow looks again and again until ctx ends.
func (t *tail) follow(ctx context.Context) {
	wait := t.every
	for {
		err := t.look(ctx, newLog)
		if err != nil && ctx.Err() == nil {
			t.borrow(ctx)
		}
		t.mu.Lock()
		idle := time.Since(t.view.Grown) > idleAfter || t.view.Streams
		failed := t.view.Problem != nil
		t.view.Problem = err
		t.broadcastLocked()
		t.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = min(2*wait, max(mostLate, t.every))
			if !failed {
				t.logger.Warn("the log cannot be read in the repository; it is tried again", dr.KeyError, err)
			}
		default:
			if failed {
				t.logger.Info("the log can be read again")
			}
			if wait = t.every; idle {
				wait *= idleTimes
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-time.After(wait):
		}
	}
}

// look asks the store once. Where a standby comes meanwhile that begins elsewhere, it asks again.
func (t *tail) look(ctx context.Context, sc scope) error {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if t.current() == nil {
		if err := t.openWith(ctx, t.open); err != nil {
			return err
		}
	}
	opened := false
	for {
		whole, err := t.tryLook(ctx, sc)
		switch {
		case err == nil && whole:
			return nil
		case err == nil: // once more
		case ctx.Err() != nil || opened || !(errors.Is(err, repo.ErrKeysRotated) || errors.Is(err, seal.ErrUnknownEpoch)):
			return err
		default:
			opened = true
			if err := t.openAgain(ctx); err != nil {
				return err
			}
		}
	}
}

func (t *tail) openAgain(ctx context.Context) error { return t.openWith(ctx, t.reopen) }

func (t *tail) openWith(ctx context.Context, open func(context.Context) (*repo.Log, error)) error {
	log, err := open(ctx)
	if err == nil {
		t.mu.Lock()
		t.log = log
		t.mu.Unlock()
	}
	return err
}

// tryLook is false where what it found is for a base that is none any more.
func (t *tail) tryLook(ctx context.Context, sc scope) (whole bool, err error) {
	t.mu.Lock()
	log, v, begun, known := t.log, t.view, t.begun, len(t.pieces) > 0
	pause := waysEvery
	if time.Since(v.Grown) > idleAfter {
		pause = waysIdle
	}
	ways := v.Way == nil || t.waysAt.IsZero() || sc == everything || time.Since(t.waysAt) > pause && time.Since(v.Grown) > t.every
	marks := v.Way == nil || sc == everything || time.Since(t.markAt) > markEvery && (time.Since(v.Grown) > idleAfter || v.Sent < v.End)
	t.mu.Unlock()
	next := v
	if ways {
		way, err := newestWay(ctx, log)
		if err == nil {
			next, err = v.follow(way)
		}
		if err != nil {
			return false, err
		}
	}
	way := next.Way
	if marks {
		m, _, err := log.Mark(ctx, repo.StreamID(way.Timeline))
		if err != nil {
			return false, err
		}
		v.Mark = m
	}
	from := v.End
	if known {
		from-- // to see what ends there: a directory that is gone, or a store that has lost its objects, lists nothing
	}
	if v.Way == nil || !slices.Equal(way.Ancestors, v.Way.Ancestors) || way.Timeline != v.Way.Timeline {
		from = v.Base // another way has other pieces
	}
	found, err := t.list(ctx, log, way, from)
	if err != nil {
		return false, err
	}
	if known && len(found) == 0 {
		return false, fmt.Errorf("the store lists nothing of the log that it had before %s", v.End)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.view.Way != v.Way {
		return false, nil // the primary has told of another one meanwhile
	}
	now := time.Now()
	t.view.Way, t.view.Lent, t.view.Strayed = next.Way, next.Lent, next.Strayed
	t.view.Mark, t.view.Looked = v.Mark, now
	if ways {
		t.waysAt = now
	}
	if marks {
		t.markAt = now
	}
	if t.begun != begun {
		return false, nil // a standby has come meanwhile that begins elsewhere
	}
	if from == v.Base {
		t.pieces = nil
	}
	t.mergeLocked(found, now)
	t.listed = begun
	return true, nil
}

// mergeLocked adds what was found, and finds how far the log goes without a hole.
func (t *tail) mergeLocked(found []piece, now time.Time) {
	v := &t.view
	all := append(t.pieces, found...)
	slices.SortFunc(all, func(a, b piece) int {
		if a.from != b.from {
			return int(int64(a.from - b.from))
		}
		return int(int64(b.to - a.to))
	})
	t.pieces = slices.CompactFunc(all, func(a, b piece) bool { return a == b })
	end, next := v.Base, wal.LSN(0)
	for _, p := range t.pieces {
		if p.from > end && p.from > v.Sent {
			next = p.from
			break
		}
		if p.from > end {
			v.Base = p.from // the primary has sent what is missing
		}
		end = max(end, p.to)
	}
	if end != v.End {
		v.Grown = now
	}
	v.End = end
	if next == 0 || v.Next != next {
		v.Holed = now
	}
	v.Next = next
	t.broadcastLocked()
}

func (t *tail) broadcastLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// state returns what is known, and what is closed when that changes.
func (t *tail) state() (view, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view, t.changed
}

// progress takes what the standby says of itself.
func (t *tail) progress(p walsender.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view.Has = p.Flushed
	if t.receiver != nil {
		t.receiver.Ack(p.Flushed)
	}
}

// current returns the log as it is open now; nil before the first look.
func (t *tail) current() *repo.Log {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.log
}

// forget forgets the standby's sessions: its server is started anew.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view.Session, t.view.Foreign = 0, nil
}

// restored tells that the directory is on the repository's way again.
func (t *tail) restored() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view.Strayed = nil
}

// thaw takes freeze back.
func (t *tail) thaw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = wal.MaxLSN
	t.broadcastLocked()
}

// System implements walsender.Log. It waits for the first look.
func (t *tail) System(ctx context.Context) (walsender.System, error) {
	for {
		v, changed := t.state()
		if v.Way != nil {
			s := t.system
			s.Timeline, s.Flushed = v.Way.Timeline, max(v.End, v.Sent)
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return t.system, context.Cause(ctx)
		}
	}
}

// History implements walsender.Log.
func (t *tail) History(ctx context.Context, tl wal.TimelineID) ([]byte, error) {
	b, err := t.history(ctx, tl)
	if err != nil {
		return nil, fmt.Errorf("the history of timeline %d: %w", tl, err)
	}
	return b, nil
}
