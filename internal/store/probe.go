package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// Abilities are what a store was seen to do. Nothing here is believed from a name or a version: some servers
// accept the header for exclusive creation and ignore it.
type Abilities struct {
	ExclusiveCreate bool // of two concurrent creators of a name one was refused, and the other's bytes stayed
	ListAfterWrite  bool // a listing showed a new object at once, and no longer showed a deleted one
	Delete          bool // these credentials may delete
}

// probePrefix is where Probe works; what a dead prober left there may be deleted.
const probePrefix = "probe/"

// cleanUp bounds the removal of the probe's object when the probe failed.
const cleanUp = 30 * time.Second

// Probe tries, in about eight calls and with one small object of a random name below probe/, what the
// repository relies on. Bytes that do not come back as they were written, an overwrite that is not seen, or a
// failing call are errors; a missing ability is none. Where the credentials may not delete, the object stays.
func Probe(ctx context.Context, s Store) (Abilities, error) {
	p := probe{s: s, name: probePrefix + hexText(16)}
	err := p.run(ctx)
	if err != nil {
		// Also when ctx ended: an interrupted start leaves nothing behind.
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		err = errors.Join(fmt.Errorf("probe the store: %w", err), deletable(s.Delete(c, p.name)))
	}
	return p.can, err
}

func hexText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return fmt.Sprintf("%x", b)
}

// deletable drops the refusal of a delete, which the credentials of a writer may lack on purpose.
func deletable(err error) error {
	if KindOf(err) == Denied {
		return nil
	}
	return err
}

type probe struct {
	s    Store
	name string
	can  Abilities
}

func (p *probe) run(ctx context.Context) error {
	if err := p.race(ctx); err != nil {
		return err
	}
	body := []byte(hexText(32))
	if err := p.s.Put(ctx, p.name, body); err != nil {
		return err
	}
	// A part of the new body proves the overwrite and the range at once.
	part := make([]byte, 24)
	if err := p.s.GetRange(ctx, p.name, 17, part); err != nil {
		return err
	}
	if !bytes.Equal(part, body[17:17+24]) {
		return p.wrong("get", "a range that was read just after an overwrite holds other bytes than were written")
	}
	listed, err := p.listed(ctx, int64(len(body)))
	if err != nil {
		return err
	}
	err = p.s.Delete(ctx, p.name)
	p.can.Delete = err == nil
	if err != nil {
		p.can.ListAfterWrite = listed
		return deletable(err)
	}
	gone, err := p.listed(ctx, int64(len(body)))
	p.can.ListAfterWrite = listed && !gone
	return err
}

// race has two creators create the object at once.
func (p *probe) race(ctx context.Context) error {
	bodies := [2][]byte{[]byte(hexText(32)), []byte(hexText(32))}
	var errs [2]error
	var g errgroup.Group
	for i := range bodies {
		g.Go(func() error {
			errs[i] = p.s.Create(ctx, p.name, bodies[i])
			return nil
		})
	}
	_ = g.Wait()
	for i, err := range errs {
		switch {
		case err == nil, errors.Is(err, ErrExists):
		case KindOf(err) == Other && ctx.Err() == nil:
			return nil // "not implemented" and its like; whether plain writes work is seen next
		default:
			return errs[i]
		}
	}
	if (errs[0] == nil) == (errs[1] == nil) {
		return nil
	}
	there, err := p.s.Get(ctx, p.name, 1<<10)
	if err != nil {
		return err
	}
	won := 0
	if errs[0] != nil {
		won = 1
	}
	p.can.ExclusiveCreate = bytes.Equal(there, bodies[won])
	return nil
}

func (p *probe) listed(ctx context.Context, size int64) (bool, error) {
	found := false
	err := p.s.List(ctx, p.name, "", func(i Info) error {
		found = found || i.Name == p.name && i.Size == size
		return nil
	})
	return found, err
}

func (p *probe) wrong(op, text string) error {
	return &Error{Op: op, Name: p.name, Store: p.s.String(), Kind: Damaged, Err: errors.New(text)}
}
