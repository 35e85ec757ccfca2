package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Mark is a high-water mark of a stream: everything before LSN was acknowledged as durable in this replica, and
// at Source, by the source's clock, nothing later had been acknowledged by the source that was not before LSN.
// A recovery that ends below a mark has lost something.
type Mark struct {
	Stream StreamID  `json:"stream"`
	LSN    uint64    `json:"lsn"`
	Source time.Time `json:"source,omitzero"` // the source's clock
	Writer time.Time `json:"writer"`          // the writer's clock
	Signer string    `json:"signer"`
}

const purposeMark = "mark"

func (l *Log) markPrefix(s StreamID) string {
	return fmt.Sprintf("%s%s/%08x/", prefixMarks, l.r.keys.NameHash(l.system), uint32(s))
}

// PutMark stores a mark and removes the stream's lower ones. A mark is never written before what it promises is
// durable.
func (l *Log) PutMark(ctx context.Context, m Mark) error {
	if l.r.opts.Signer == nil {
		return errors.New("a writer needs a signer")
	}
	// What is acknowledged must be found by whoever opens the repository then.
	if err := l.r.checkMarker(ctx); err != nil {
		return err
	}
	m.Signer = l.r.opts.Signer.Public().ID()
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	prefix := l.markPrefix(m.Stream)
	name := fmt.Sprintf("%s%016x-%016x", prefix, m.LSN, uint64(micros(m.Source)))
	err = l.r.store.Put(ctx, name, l.r.keys.SealWhole(seal.KindMark, name, signed(l.r.opts.Signer, purposeMark, body)))
	if err != nil {
		return fmt.Errorf("store the high-water mark: %w", err)
	}
	lower, known := l.marks.swap(m.Stream, name)
	switch {
	case !known:
		err = l.dropMarks(ctx, m.Stream, name)
	case lower < name:
		err = l.r.store.Delete(ctx, lower)
	}
	if err != nil {
		l.marks.forget(m.Stream)
	}
	return err
}

// listMarks is how often others are looked for when a mark is put, who may have put one: a listing costs as much as the mark.
const listMarks = 32

// ownMarks remembers which mark of a stream a Log has put last.
type ownMarks struct {
	mu  sync.Mutex // guards all
	all map[StreamID]ownMark
}

type ownMark struct {
	name string
	uses int
}

// swap notes a mark and returns the one before; known is false where all marks shall be listed.
func (o *ownMarks) swap(s StreamID, name string) (before string, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = map[StreamID]ownMark{}
	}
	last := o.all[s]
	if known = last.name != "" && last.uses < listMarks; !known {
		last.uses = 0
	}
	o.all[s] = ownMark{name, last.uses + 1}
	return last.name, known
}

func (o *ownMarks) forget(s StreamID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, s)
}

// Mark returns the highest mark of a stream; ok is false where there is none.
func (l *Log) Mark(ctx context.Context, s StreamID) (Mark, bool, error) {
	m, err := answered(ctx, l, func(ctx context.Context, l *Log) (Mark, error) { return l.mark(ctx, s) }, higher)
	return m, err == nil && m != (Mark{}), err
}

// mark returns the zero Mark where there is none.
func (l *Log) mark(ctx context.Context, s StreamID) (m Mark, err error) {
	name, err := l.markObject(ctx, s)
	if err != nil || name == "" {
		return m, err
	}
	b, err := l.r.store.Get(ctx, name, maxSmall)
	if errors.Is(err, store.ErrNotExist) {
		return l.mark(ctx, s) // a higher one has just replaced it
	}
	if err != nil {
		return m, err
	}
	if err := l.r.openSigned(ctx, seal.KindMark, purposeMark, name, b, &m, &m.Signer); err != nil {
		return m, err
	}
	lsn, _, _ := strings.Cut(name[len(l.markPrefix(s)):], "-")
	if v, err := strconv.ParseUint(lsn, 16, 64); err != nil || v != m.LSN || m.Stream != s {
		return m, &seal.DamagedError{Name: name, Reason: "it holds another mark than its name says"}
	}
	return m, nil
}
